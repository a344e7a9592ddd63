"""Few rows through a large head on a CPU: `head(hidden)`, or the product the other way round.

    python benchmarks/projection.py [--threads 1]

fp32. `turned` is weight · hiddenᵀ, turned back and made contiguous: what `models.heads.project`
does for few rows and 16,384 ids or more. Milliseconds, the least of several (on one thread of its
processor time); which way is quicker is a matter of the processor, of its threads and of its
library of products.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

IDS, HIDDEN, ROWS = (151_936, 32_000, 4_096), (256, 1_024), (1, 2, 8, 32, 64, 128)


def milliseconds(action: Callable[[], Tensor], repeats: int = 7) -> float:
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    action()
    taken: list[float] = []
    for _ in range(repeats):
        start = now()
        action()
        taken.append(1e3 * (now() - start))
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description="A large head, two ways round.")
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    print("| ids | hidden | rows | head, ms | turned, ms | ratio |\n|---|---|---|---|---|---|")
    for ids in IDS:
        for size in HIDDEN:
            weight = 0.02 * torch.randn(ids, size)
            for rows in ROWS:
                hidden = torch.randn(rows, size)
                with torch.inference_mode():
                    plain = milliseconds(lambda h=hidden, w=weight: linear(h, w))
                    turned = milliseconds(lambda h=hidden, w=weight: (w @ h.t()).t().contiguous())
                cells = f"{ids:,} | {size:,} | {rows} | {plain:.2f} | {turned:.2f}"
                print(f"| {cells} | {plain / turned:.2f} |", flush=True)


if __name__ == "__main__":
    main()
