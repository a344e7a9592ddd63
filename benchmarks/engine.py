"""Tokens per second of the rollout engine, against transformers' `generate` and against a bound.

    python benchmarks/engine.py [--quick] [--threads 2] [--cpu-time]

Rows: a student alone, and a student blended with its teacher within a KL budget (trust-region
behaviour blending). The peer of the first is `generate`; the peer of the second is `generate` with
a logits processor that runs the teacher on its own cache and bisects the exponent in 30 steps.
Everything is sampled at temperature 1 in fp32 with random weights whose logits have a standard
deviation of 2.5, so that the blend has to be solved for.

equal: as many requests as slots, equal prompts and responses. ragged: four requests per slot,
prompts and responses of fixed random lengths (the engine is given the response, so that its length
is fixed; the peer's rows stop at theirs). The peer decodes batches of `slots` requests, in order.

bound: no engine with these slots is faster than the forwards it needs. `bare` is the time of these
alone, by transformers itself on its own dynamic cache, without mask, sampling or record, in the
same process: one forward of the body per `slots` prompts, and one of body and head per round of a
schedule that refills a slot as soon as it falls free, over the rows live in it and the longest of
their contexts (a batch is a rectangle; where lengths are equal: all rows, the context growing); for
the student, and for the teacher too in blended rows. The bound of the ratio engine : peer is peer
seconds / bare seconds; `reached` is the ratio over that bound, which is bare / engine. It may pass
1 where the slot cache is cheaper than the dynamic one.

Repetitions are interleaved; shown are medians, and the least and the greatest ratio. Each has
prompts and lengths of its own: how many rounds a queue takes depends on which long response happens
to start last, and the bound takes requests as they come while the engine takes the longest prompts
first. On a single draw of lengths one of the two is luckier, by 9 % (one standard deviation) over
the full vocabulary; on average they need the same. On a machine with other work,
`--threads 1 --cpu-time` measures processor time instead of wall time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from engine_sides import (
    BUDGET,
    Body,
    Pair,
    Size,
    build,
    new_tokens,
    run_bare,
    run_engine,
    run_peer,
    workload,
)
from tandem.behaviours import Student, TrustRegionBlend

BLEND = TrustRegionBlend(budget=BUDGET, warmup_steps=1_000_000)
SIZES = (
    Size("embedded", 20, Body(128, 3, 4), Body(128, 4, 4), 64, 24, 64, 5),
    Size("small", 2_048, Body(256, 6, 4), Body(512, 8, 8), 32, 32, 48, 5),
    Size("full", 151_936, Body(256, 4, 4), Body(1024, 4, 16), 8, 32, 16, 5),
)


def seconds(action: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    with torch.inference_mode():
        action()
    return clock() - start


def measure(
    size: Size, *, ragged: bool, blend: bool, pair: Pair, clock: Callable[[], float]
) -> list[str]:
    """One row of the table."""
    requests = workload(size, ragged=ragged, seed=0)
    models = [pair.student, pair.teacher] if blend else [pair.student]
    actions: dict[str, Callable[[], None]] = {
        "bare": lambda: run_bare(models, size, requests),
        "engine": lambda: run_engine(pair, size, requests, BLEND if blend else Student()),
        "peer": lambda: run_peer(pair, size, requests, blend=blend),
    }
    times: dict[str, list[float]] = {name: [] for name in actions}
    warm = replace(size, new=2)
    few = [replace(r, forced_ids=()) for r in requests[: size.slots]]
    run_engine(pair, warm, few, BLEND if blend else Student())
    run_peer(pair, warm, few, blend=blend)
    tokens: list[int] = []
    for seed in range(1, size.repeats + 1):
        requests = workload(size, ragged=ragged, seed=seed)
        tokens.append(sum(new_tokens(r, size) for r in requests))
        for name, action in actions.items():
            times[name].append(seconds(action, clock))
    ratios = [p / e for p, e in zip(times["peer"], times["engine"], strict=True)]
    bounds = [p / b for p, b in zip(times["peer"], times["bare"], strict=True)]
    reached = [b / e for b, e in zip(times["bare"], times["engine"], strict=True)]
    engine, peer = (
        statistics.median(n / t for n, t in zip(tokens, times[name], strict=True))
        for name in ("engine", "peer")
    )
    return [
        f"{size.name} {size.vocabulary:,}",
        "ragged" if ragged else "equal",
        "blend" if blend else "student",
        f"{engine:,.0f}",
        f"{peer:,.0f}",
        f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]",
        f"{statistics.median(bounds):.2f}",
        f"{statistics.median(reached):.2f} [{min(reached):.2f}, {max(reached):.2f}]",
    ]


HEAD = ["pair, ids", "lengths", "law", "engine tok/s", "peer tok/s", "ratio", "bound", "reached"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Engine against transformers' generate.")
    parser.add_argument("--quick", action="store_true", help="one repetition of a quarter the size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="processor time: busy machines")
    parser.add_argument("--only", choices=[size.name for size in SIZES])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    start = time.perf_counter()
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for size in SIZES:
        if arguments.only not in (None, size.name):
            continue
        chosen = replace(size, new=size.new // 4, repeats=1) if arguments.quick else size
        pair = build(chosen)
        for ragged in (False, True):
            for blend in (False, True):
                row = measure(chosen, ragged=ragged, blend=blend, pair=pair, clock=clock)
                print("| " + " | ".join(row) + " |", flush=True)
    print(f"\n{arguments.threads} threads, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
