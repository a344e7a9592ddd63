"""Tokens per second of the rollout engine, against transformers' `generate` and against a bound.

    TANDEM_TEST_DATA=... python benchmarks/engine.py [--only embedded] [--threads 2]
        [--clock wall|processor]

Three pairs in fp32: `embedded`, the trained pair inside the package (15 ids); `stories`, a real
model of 260,000 parameters and its copy of layers 0, 2, 4 (512 ids; needs TANDEM_TEST_DATA);
`full`, random Qwen3 shapes of 42 and 202 million parameters (151,936 ids, logits of standard
deviation 2.5). Sampled at temperature 1; the end is never drawn, so that lengths are the
workload's.

Rows: a student alone; a student blended with its teacher within a KL budget ε, one token at a time
(g = 1), in blocks of g = 4, and in blocks that the engine chooses (auto); SKD (top 25 ids or half
of them, temperature 1). The peer of a student alone is `generate`; the peer of the others is
`generate` with a logits processor that runs the teacher on a cache of its own and bisects the
exponent in 30 steps (ε = .01, whose time is that of any ε).

Where vLLM is installed (`make test-vllm` makes an environment with a CPU's), it answers the
embedded pair's requests for a student alone too.

equal: as many requests as slots, equal prompts and responses. ragged: four requests per slot,
prompts and responses of random lengths. The peer decodes batches of `slots` requests, in order.

bound: the time of the forwards alone, by transformers itself on its own dynamic cache, without
mask, sampling or record, in the same process: one forward of the body per `slots` prompts, and per
round g of the student over one token and one of the teacher over g, heads included, over the rows
live and the longest of their contexts, in the very rounds that the engine took. For `auto` it is
the quickest of g = 1, 2, 4, 8 (over all repetitions: the quickest of four in each would be the one
that was disturbed least), each in a schedule that refills a free slot at once and keeps each draft
with chance α, the acceptance that the engine had in this run (of nine draws the median).
`reached` is that time over the engine's. It may pass 1: on a CPU the engine's products with a large
head are quicker than transformers'. Teacher looks: rounds of a row in which the teacher was asked,
per token.

Repetitions are interleaved; shown are medians, and the least and the greatest of a ratio. Each has
prompts and lengths of its own: how many rounds a queue takes depends on which long response happens
to start last. With `--clock processor` all times are processor seconds, on one thread: on a machine
that others use as well they say more than seconds do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from engine_pairs import Pair, Size, build, new_tokens, workload
from engine_sides import CLOCK, run_bare, run_engine, run_peer, schedule, vllm_engine
from tandem.behaviours import Behaviour, FixedBudgetBlend, SpeculativeKD, Student
from tandem.rollout import Engine
from tandem.rollout.costs import CostBook, measure_costs
from tandem.rollout.pace import DISTRIBUTIONS, Block
from tandem.rollout.protocol import RolloutEngine
from tandem.rollout.session import Terms
from tandem.rollout.tally import Tally
from tandem.types import Sampling, SignalSpec

PEER_BUDGET = 0.01
AUTO = (1, 2, 4, 8)
SIZES = (
    Size("embedded", slots=64, prompt=24, new=64, repeats=7),
    Size("stories", slots=32, prompt=24, new=96, repeats=5),
    Size("full", slots=8, prompt=32, new=16, repeats=3),
)


@dataclass
class Case:
    """One row of the table, and what its repetitions took."""

    name: str
    behaviour: Behaviour
    block: Block
    seconds: list[float] = field(default_factory=list)
    # Of every repetition, by what could have been chosen: one time, or one for each of AUTO.
    bounds: list[list[float]] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)


def cases(pair: Pair) -> list[Case]:
    blends = [(0.01, 1), (0.001, 4), (0.01, 4), (0.03, 4), (0.1, 4), (0.01, "auto")]
    found = [Case("student alone", Student(), 1)]
    for budget, block in blends:
        name = f"blend ε = {budget:g}, g = {block}"
        found.append(Case(name, FixedBudgetBlend(budget=budget), block))
    top_k = min(25, (pair.vocabulary - 1) // 2)
    skd = SpeculativeKD(top_k=top_k, teacher_temperature=1.0)
    found.append(Case(f"SKD top {top_k}, g = auto", skd, "auto"))
    return found


def seconds(action: Callable[[], None], now: Callable[[], float]) -> float:
    start = now()
    with torch.inference_mode():
        action()
    return now() - start


def costs_of(pair: Pair, size: Size, now: Callable[[], float]) -> CostBook:
    """What `auto` goes by, measured by this clock."""
    book = CostBook()
    terms = Terms(
        FixedBudgetBlend(budget=PEER_BUDGET), CLOCK, Sampling(size.new), 0, SignalSpec(), 0
    )
    row_bytes = DISTRIBUTIONS * 4 * pair.vocabulary
    with torch.inference_mode():
        found = measure_costs(
            pair.speakers(), terms, slots=size.slots, row_bytes=row_bytes, now=now
        )
    book.keep("teacher", found)
    return book


def measure(size: Size, pair: Pair, *, ragged: bool, now: Callable[[], float]) -> list[list[str]]:
    """The rows of one pair and one kind of lengths."""
    student, teacher = pair.speakers()
    books = costs_of(pair, size, now)
    table = cases(pair)
    engines: dict[str, RolloutEngine] = {
        case.name: Engine(
            student, {"teacher": teacher}, slots=size.slots, block=case.block, costs=books
        )
        for case in table
    }
    if size.name == "embedded" and find_spec("vllm") is not None:
        table.append(Case("student alone, vLLM", Student(), 1))
        engines[table[-1].name] = vllm_engine(student, size)
    peers: dict[bool, list[float]] = {False: [], True: []}
    tokens: list[int] = []
    for seed in range(size.repeats + 1):
        requests = workload(pair, size, ragged=ragged, seed=seed)
        warm = seed == 0
        if warm:
            requests = [replace(r, max_new_tokens=2) for r in requests[: size.slots]]
        tokens += [] if warm else [sum(new_tokens(r, size) for r in requests)]
        for taught in peers:
            budget = PEER_BUDGET if taught else None
            spent = seconds(lambda b=budget, w=requests: run_peer(pair, size, w, budget=b), now)
            peers[taught] += [] if warm else [spent]
        for case in table:
            tally, rounds = Tally(), []
            spent = seconds(
                lambda c=case, w=requests, t=tally, r=rounds: r.extend(
                    run_engine(engines[c.name], size, w, c.behaviour, t)
                ),
                now,
            )
            if warm:
                continue
            taught = tally.teacher_rows > 0
            stays = tally.stayed / tally.tried if taught else 1.0
            plans = [rounds]
            if not rounds:  # vLLM tells of none
                plans = [schedule(size, requests, width=1, stays=1.0)]
            elif case.block == "auto":
                plans = [schedule(size, requests, width=g, stays=stays) for g in AUTO]
            case.seconds.append(spent)
            case.bounds.append(
                [
                    seconds(partial(run_bare, pair, size, requests, plan, taught=taught), now)
                    for plan in plans
                ]
            )
            case.tallies.append(tally)
    for engine in engines.values():
        engine.close()
    label = f"{size.name} {pair.vocabulary:,}", "ragged" if ragged else "equal"
    rows = []
    for taught, name in ((False, "generate"), (True, "generate, blending")):
        speed = statistics.median(n / t for n, t in zip(tokens, peers[taught], strict=True))
        rows.append([*label, name, f"{speed:,.0f}", "", "", "1", "", ""])
    return rows + [[*label, *figures(case, peers, tokens)] for case in table]


def figures(case: Case, peers: dict[bool, list[float]], tokens: list[int]) -> list[str]:
    tried = sum(t.tried for t in case.tallies)
    taught = any(t.teacher_rows for t in case.tallies)
    peer = peers[taught]
    ratios = [p / e for p, e in zip(peer, case.seconds, strict=True)]
    bare = min(zip(*case.bounds, strict=True), key=sum)
    reached = [b / e for b, e in zip(bare, case.seconds, strict=True)]
    bound = statistics.median(n / b for n, b in zip(tokens, bare, strict=True))
    looks = sum(t.teacher_rows for t in case.tallies) / sum(t.tokens for t in case.tallies)
    return [
        case.name,
        f"{statistics.median(n / t for n, t in zip(tokens, case.seconds, strict=True)):,.0f}",
        f"{looks:.2f}" if taught else "",
        f"{sum(t.stayed for t in case.tallies) / tried:.3f}" if taught else "",
        spread(ratios),
        f"{bound:,.0f}",
        spread(reached),
    ]


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


HEAD = (
    "pair, ids",
    "lengths",
    "what",
    "tokens/s",
    "teacher looks",
    "acceptance",
    "against generate",
    "bound, tokens/s",
    "reached",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Engine against transformers' generate.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, help="instead of each pair's own")
    parser.add_argument("--only", choices=[size.name for size in SIZES])
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    arguments = parser.parse_args()
    now, threads = time.perf_counter, arguments.threads
    if arguments.clock == "processor":
        # Threads that wait for each other do not sleep.
        now, threads = time.process_time, 1
    torch.set_num_threads(threads)
    data = os.environ.get("TANDEM_TEST_DATA")
    start = time.perf_counter()
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for size in SIZES:
        if arguments.only not in (None, size.name):
            continue
        if size.name == "stories" and data is None:
            print("stories left out: TANDEM_TEST_DATA is not set")
            continue
        pair = build(size.name, Path(data) if data else None)
        chosen = replace(size, repeats=arguments.repeats or size.repeats)
        for ragged in (False, True):
            for row in measure(chosen, pair, ragged=ragged, now=now):
                print("| " + " | ".join(row) + " |", flush=True)
    print(f"\n{threads} threads, {arguments.clock} clock, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
