"""The blend solver against eager bisection: passes over the vocabulary, time, agreement.

    python benchmarks/solver.py [--rows 16] [--repeats 5] [--threads 1]

Two kinds of rows at V = 151,936: "peaked" like a language model's next token (logits falling with
the logarithm of a shared rank, a sharpness of its own for each row, noise of each model's own), and
"random" (Gaussian logits, nearly flat). Bisection takes 30 halvings and is given the rows one by
one, because on a CPU its temporaries then stay in cache: the faster way to run it. The programs are
timed in turn within each repeat, in CPU seconds, so that a busy machine weighs on all of them
alike; a ratio is taken per repeat and its spread is printed. A unit is one fp32 log-softmax of the
same rows into memory that is already there. Rows whose budget buys the whole teacher need no
search: they are counted apart. Takes less than two minutes.

A second table is about small vocabularies, which have a solver of their own (blend_small.py): its
time beside that of the one for large ones, microseconds of the processor per call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from tandem.core import blend
from tandem.core.blend import BlendSolution, solve_blend

VOCABULARY = 151_936
BUDGETS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
HALVINGS = 30
# Rows and ids of small models' rounds: one token of each row, or four.
SMALL = ((64, 15), (256, 15), (32, 512), (128, 512))
SMALL_CALLS, SMALL_BUDGET = 100, 0.01


def peaked_rows(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Student and teacher log-probs [rows, V]; entropies from about 0 to 7 nats."""
    sharpness = 1.0 + 3.0 * torch.rand(rows, 1, generator=generator)
    ranks = torch.stack([torch.randperm(VOCABULARY, generator=generator) for _ in range(rows)])
    shared = -sharpness * (ranks + 1.0).log()
    return with_own_noise(shared, scale=1.0, generator=generator)


def random_rows(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Student and teacher log-probs [rows, V]; entropies of about 10 nats."""
    shared = 2.0 * torch.randn(rows, VOCABULARY, generator=generator)
    return with_own_noise(shared, scale=1.0, generator=generator)


def with_own_noise(
    shared: Tensor, *, scale: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    own = [scale * torch.randn(shared.shape, generator=generator) for _ in range(2)]
    return (shared + own[0]).log_softmax(-1), (shared + own[1]).log_softmax(-1)


@torch.no_grad()
def bisect(p: Tensor, q: Tensor, budget: float) -> tuple[Tensor, Tensor]:
    """(exponent [rows], log μ [rows, V]) by halving, as one writes it first."""
    low, high = torch.zeros(len(p), 1), torch.ones(len(p), 1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        law = ((1 - middle) * p + middle * q).log_softmax(-1)
        fits = (law.exp() * (law - p)).sum(-1, keepdim=True) <= budget
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return low[:, 0], ((1 - low) * p + low * q).log_softmax(-1)


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of all threads."""
    start = time.process_time()
    run()
    return time.process_time() - start


def spread(values: list[float]) -> str:
    return f"{min(values):6.1f} {median(values):6.1f} {max(values):6.1f}"


def passes_of(solution: BlendSolution) -> str:
    """Rows searched; mean and largest number of their passes after the end-point pass."""
    searched = solution.passes[solution.passes > 0].double()
    if len(searched) == 0:
        return f"{0:8d} {'-':>5} {'-':>3}"
    return f"{len(searched):8d} {searched.mean().item():5.2f} {int(searched.max()):3d}"


def compare(kind: str, p: Tensor, q: Tensor, budget: float, repeats: int) -> list[float]:
    """Print one line; the ratios of time, bisection over solver, one for each repeat."""
    room = torch.empty_like(p)

    def solve() -> BlendSolution:
        return solve_blend(student_logp=p, teacher_logp=q, budget=budget)

    def halve() -> Tensor:
        return torch.cat([bisect(p[i : i + 1], q[i : i + 1], budget)[0] for i in range(len(p))])

    solution = solve()
    apart = (solution.exponent - halve()).abs().max().item()
    ratios, units, slow_units = [], [], []
    for _ in range(repeats):
        slow, fast = seconds(halve), seconds(solve)
        unit = median(seconds(lambda: torch.log_softmax(p, -1, out=room)) for _ in range(3))
        ratios.append(slow / fast)
        units.append(fast / unit)
        slow_units.append(slow / unit)
    print(
        f"{kind:6} {budget:7.0e} {passes_of(solution)}   {spread(ratios)}   {median(units):6.1f}"
        f" {median(slow_units):9.1f}   {apart:8.1e}",
        flush=True,
    )
    return ratios


def compare_small(rows: int, ids: int, repeats: int) -> None:
    """Print one line about a small vocabulary."""
    generator = torch.Generator().manual_seed(0)
    shared = 3.0 * torch.randn(rows, ids, generator=generator)
    p, q = with_own_noise(shared, scale=0.5, generator=generator)

    def calls() -> None:
        for _ in range(SMALL_CALLS):
            solve_blend(student_logp=p, teacher_logp=q, budget=SMALL_BUDGET)

    own, other = [], []
    few = blend.FEW
    for _ in range(repeats + 1):
        for limit, found in ((few, own), (0, other)):
            blend.FEW = limit
            found.append(1e6 * seconds(calls) / SMALL_CALLS)
    blend.FEW = few
    # The first of each warms up.
    ratios = [slow / fast for fast, slow in zip(own[1:], other[1:], strict=True)]
    print(
        f"{rows:4d} {ids:5d}   {median(own[1:]):8.0f} {median(other[1:]):8.0f}   {spread(ratios)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"V = {VOCABULARY}, {options.rows} rows, {options.repeats} repeats,"
        f" {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )
    print("                           passes     bisection / solver              units")
    print(
        "rows    budget searched  mean max      min median    max   solver bisection"
        "   exponents apart"
    )
    generator = torch.Generator().manual_seed(0)
    every: list[float] = []
    for kind, make in (("peaked", peaked_rows), ("random", random_rows)):
        p, q = make(options.rows, generator)
        for budget in BUDGETS:
            every += compare(kind, p, q, budget, options.repeats)
    print(f"bisection / solver over all: {spread(every)} (min, median, max); expected: 8 or more")
    print(f"\nsmall vocabularies, budget {SMALL_BUDGET:g}        other / own")
    print("rows   ids   own, µs other, µs      min median    max")
    for rows, ids in SMALL:
        compare_small(rows, ids, options.repeats)


if __name__ == "__main__":
    main()
