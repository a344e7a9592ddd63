"""Answers per second of grading, hostile ones included, and of a suite on the embedded student.

    TANDEM_TEST_DATA=... python benchmarks/evaluation.py [--workers 2] [--problems 200]

Grading: the gold answers of MATH-500, OlympiadBench and Minerva, each against itself and against
the one before it, all pairs distinct, so that no cache helps; processes are started before the
clock. Processor seconds are those of the grading processes, two seconds of starting each included.
`hostile`: one pair in a hundred replaced by an answer that takes its whole limit (3 s of parsing
and comparing each). `whole numbers`: the same of GSM8K. `cached`: the same pairs again. `letters`:
MMLU's letters, graded in this process.

Suite: `arithmetic` on embedded:student from loading the model to result.json, as `tandem eval`
runs it; then the same command again, which answers nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from tandem.evaluation.suites import suite_named
from tandem.front.suites import evaluate_suites, plan_suites
from tandem.tasks.grading import GradingPool

SETS = ("math500", "olympiadbench_math_en", "minerva_math")
HOSTILE = "10^{{10^{{{n}}}}}"
EVERY = 100
HEAD = """
| answers | workers | pairs | right | timed out | seconds | per second | per processor second |
|---|---|---|---|---|---|---|---|"""
SUITE_HEAD = """
| suite run | answers | tokens | to the last answer, s | whole, s | answers/s | tokens/s |
|---|---|---|---|---|---|---|"""

Pairs = list[tuple[str, str]]


def gold_pairs(data: Path, sets: tuple[str, ...]) -> Pairs:
    """(gold, answer): every distinct gold answer with itself and with its neighbour."""
    golds: dict[str, None] = {}
    for name in sets:
        text = (data / name / "problems.jsonl").read_text("utf-8")
        golds |= dict.fromkeys(str(json.loads(line)["answer"]) for line in text.split("\n") if line)
    return [(gold, gold) for gold in golds] + [(b, a) for a, b in pairwise(golds)]


def with_hostile(pairs: Pairs) -> Pairs:
    """Every hundredth answer is a tower of exponents, each another one."""
    return [
        (gold, HOSTILE.format(n=10 + n)) if n % EVERY == 0 else (gold, answer)
        for n, (gold, answer) in enumerate(pairs)
    ]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def graded(name: str, pairs: Pairs, workers: int) -> list[str]:
    """Rows of the table: these pairs, and the same from the cache."""
    before = processor_seconds()
    pool = GradingPool(workers=workers)
    pool.grade([("1", f"{n}.5") for n in range(10 * workers)])
    first = seconds(lambda: pool.grade(pairs))
    again = seconds(lambda: pool.grade(pairs))
    verdicts = pool.grade(pairs)
    pool.close()
    busy = processor_seconds() - before
    right = sum(verdict.right for verdict in verdicts)
    late = sum(verdict.reason == "timeout" for verdict in verdicts)
    head = f"| {workers} | {len(pairs):,} | {right:,} | {late} |"
    rates = f"{len(pairs) / first:,.0f} | {len(pairs) / busy:,.0f} |"
    return [
        f"| {name} {head} {first:.1f} | {rates}",
        f"| {name}, cached {head} {again:.4f} | {len(pairs) / again:,.0f} | |",
    ]


def processor_seconds() -> float:
    """Of grading processes that have ended; what else the machine does is not in it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def letters(data: Path) -> str:
    suite = suite_named("mmlu_stem", {"data_root": data})
    items = [(prompt, "so it is \\boxed{\\text{C}}.") for prompt in suite.problems]
    taken = seconds(lambda: suite.grade_many(items))
    right = sum(grade.correct for grade in suite.grade_many(items))
    rate = len(items) / taken
    return f"| letters | – | {len(items):,} | {right:,} | 0 | {taken:.2f} | {rate:,.0f} | |"


def suite_row(output: Path, *, problems: int, samples: int, name: str) -> str:
    """One run of the arithmetic suite, model and all."""
    begun: dict[str, float] = {}

    def watch(phase: str) -> Callable[[int, int], None]:
        # The last told moment of a phase is its end.
        return lambda done, total: begun.update({phase: time.perf_counter()})

    start = time.perf_counter()
    plan = plan_suites(
        "embedded:student",
        suites=["arithmetic"],
        samples=samples,
        output=output,
        overrides=[f"limits.problems={problems}"],
    )
    ((_, result),) = evaluate_suites(plan, watch=watch)
    taken = time.perf_counter() - start
    answers = problems * samples
    tokens = answers * result.at_1.mean_length
    answering = begun.get("arithmetic: answers", start) - start
    return (
        f"| {name} | {answers:,} | {tokens:,.0f} | {answering:.1f} | {taken:.1f} | "
        f"{answers / taken:,.0f} | {tokens / taken:,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="grading and suites, timed")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--samples", type=int, default=16)
    given = parser.parse_args()
    data = Path(os.environ["TANDEM_TEST_DATA"])
    pairs = gold_pairs(data, SETS)
    print(HEAD)
    for workers in given.workers:
        print("\n".join(graded("golds", pairs, workers)), flush=True)
    print("\n".join(graded("golds, 1 % hostile", with_hostile(pairs), max(given.workers))))
    print("\n".join(graded("whole numbers", gold_pairs(data, ("gsm8k_test",)), 1)))
    print(letters(data), flush=True)
    print(SUITE_HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("arithmetic", "arithmetic, again"):
            output = Path(folder) / "out"
            print(
                suite_row(output, problems=given.problems, samples=given.samples, name=name),
                flush=True,
            )


if __name__ == "__main__":
    main()
