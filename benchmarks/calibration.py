"""How steady the costs are that `block: auto` goes by.

    python benchmarks/calibration.py [--times 6] [--threads 2]

Measures the table of costs of the embedded pair several times in a row, as an engine of 64 slots
does before its first blended roll-out, and prints what a round of g drafts over all slots costs in
milliseconds, and beside one of a single draft. Blocks are chosen by these ratios.
"""

from __future__ import annotations

import argparse
import time

import torch

from engine import SIZES, costs_of
from engine_pairs import build


def main() -> None:
    parser = argparse.ArgumentParser(description="How steady the costs of auto are.")
    parser.add_argument("--times", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = SIZES[0]
    pair = build(size.name, None)
    ratios: list[list[float]] = []
    for index in range(arguments.times):
        start = time.perf_counter()
        table = costs_of(pair, size, time.perf_counter)["teacher"]
        spent, whole = time.perf_counter() - start, table.seconds[-1]
        ratios.append([seconds / whole[0] for seconds in whole])
        if index == 0:
            print("| g = 1, ms |" + "".join(f" g = {g} |" for g in table.widths[1:]) + " s |")
            print("|" + "---|" * (len(table.widths) + 1))
        cells = [f"{1e3 * whole[0]:.2f}", *(f"{r:.2f}" for r in ratios[-1][1:]), f"{spent:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    spread = [f"{min(column):.2f} to {max(column):.2f}" for column in zip(*ratios, strict=True)]
    print(f"\nbeside g = 1: {', '.join(spread[1:])}")


if __name__ == "__main__":
    main()
