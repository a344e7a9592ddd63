"""Where the time of a round goes.

    TANDEM_TEST_DATA=... python benchmarks/rounds.py [--only stories] [--threads 1]

The pairs of benchmarks/engine.py, equal lengths, after one run that is not timed. Processor
milliseconds per round: forwards of the bodies, heads, the law (the solver, above all), drawing,
settling, recording; `rest` is what of the whole call is none of these (prompts, log-softmax, lists
on the host). `bare`: the same rounds' forwards and heads by transformers itself, prompts included.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine import SIZES
from engine_pairs import Endless, Pair, Size, build, workload
from engine_sides import Round, run_bare, run_engine
from tandem.behaviours import Behaviour, FixedBudgetBlend, SpeculativeKD, Student
from tandem.rollout import Engine, block
from tandem.rollout.lane import Lane
from tandem.rollout.record import Recorder
from tandem.rollout.tally import Tally

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("forwards", Lane, "feed"),
    ("heads", Endless, "logits"),
    ("law", FixedBudgetBlend, "__call__"),
    ("law", SpeculativeKD, "__call__"),
    ("drawing", block, "sample"),
    ("settling", block, "settle"),
    ("recording", Recorder, "write"),
)


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Processor seconds of each part, added up in `spent`."""
    before = [(owner, name, getattr(owner, name)) for _, owner, name in PARTS]

    def wrapped(label: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **options: Any) -> Any:
            start = time.process_time()
            found = action(*given, **options)
            spent[label] = spent.get(label, 0.0) + time.process_time() - start
            return found

        return run

    try:
        for (label, owner, name), (_, _, action) in zip(PARTS, before, strict=True):
            setattr(owner, name, wrapped(label, action))
        yield
    finally:
        for owner, name, action in before:
            setattr(owner, name, action)


def measure(pair: Pair, size: Size, behaviour: Behaviour, width: int) -> list[str]:
    student, teacher = pair.speakers()
    engine = Engine(student, {"teacher": teacher}, slots=size.slots, block=width)
    requests = workload(pair, size, ragged=False, seed=1)
    short = [replace(r, max_new_tokens=2) for r in requests]
    rounds: list[Round] = []
    spent: dict[str, float] = {}
    with torch.inference_mode():
        run_engine(engine, size, short, behaviour, Tally())
        with timed(spent):
            start = time.process_time()
            rounds = run_engine(engine, size, requests, behaviour, Tally())
            whole = time.process_time() - start
        start = time.process_time()
        run_bare(pair, size, requests, rounds, taught=not isinstance(behaviour, Student))
        bare = time.process_time() - start
    names = list(dict.fromkeys(label for label, _, _ in PARTS))
    rest = whole - sum(spent.values())
    parts = [whole, bare, *(spent.get(name, 0.0) for name in names), rest]
    return [f"{1e3 * value / len(rounds):.2f}" for value in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description="The parts of a round.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=[size.name for size in SIZES])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = os.environ.get("TANDEM_TEST_DATA")
    names = list(dict.fromkeys(label for label, _, _ in PARTS))
    head = ["pair", "rows", "what", "whole, ms", "bare", *names, "rest"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for size in SIZES:
        if arguments.only not in (None, size.name) or (size.name == "stories" and data is None):
            continue
        pair = build(size.name, Path(data) if data else None)
        top_k = min(25, (pair.vocabulary - 1) // 2)
        skd = SpeculativeKD(top_k=top_k, teacher_temperature=1.0)
        blend = FixedBudgetBlend(budget=0.01)
        for name, behaviour, width in (
            ("student alone", Student(), 1),
            ("blend, g = 1", blend, 1),
            ("blend, g = 4", blend, 4),
            ("SKD, g = 4", skd, 4),
        ):
            cells = [size.name, str(size.slots), name, *measure(pair, size, behaviour, width)]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
