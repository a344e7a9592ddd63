"""Rows to solve, and the check of one against the oracle, for the solver's tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from oracles import blend as oracle
from tandem.core.blend import BlendSolution, solve_blend

INF = math.inf
BUDGETS = [1e-4, 1e-3, 1e-2, 0.1, 1.0]


def tolerance(budget: float) -> float:
    return 1e-3 * budget + 5e-7


def pair(
    rows: int,
    size: int,
    *,
    spread: float = 2.0,
    gap: float = 1.0,
    seed: int = 0,
    masked: float = 0.0,
    one_sided: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """fp32 log-probs of a student and a teacher [rows, size] that share part of their logits.

    masked: chance that an id is −inf in both. one_sided: chance that it is in the student alone,
    and as much in the teacher alone. Id 0 is never masked.
    """
    generator = torch.Generator().manual_seed(seed)
    shared, own_p, own_q = (torch.randn(rows, size, generator=generator) for _ in range(3))
    chance = torch.rand(rows, size, generator=generator)
    chance[:, 0] = 1.0
    both = chance < masked
    only_p = (chance >= masked) & (chance < masked + one_sided)
    only_q = (chance >= masked + one_sided) & (chance < masked + 2 * one_sided)
    p = (spread * shared + gap * own_p).masked_fill(both | only_p, -INF).log_softmax(-1)
    q = (spread * shared + gap * own_q).masked_fill(both | only_q, -INF).log_softmax(-1)
    return p, q


def solve(p: Tensor, q: Tensor, budget: float | Tensor) -> BlendSolution:
    return solve_blend(student_logp=p, teacher_logp=q, budget=budget)


def exact(logp: Tensor) -> oracle.Row:
    return oracle.normalised(logp.double().numpy())


def check_row(p: Tensor, q: Tensor, budget: float, exponent: float, spent: float, law: Tensor):
    """One row [V] against the oracle: feasible, as generous, reported as it is, on its support."""
    beta, cost, _ = oracle.bisect_row(p.double().numpy(), q.double().numpy(), budget)
    real = oracle.spent(exact(law), exact(p)) if exponent > 0 else 0.0
    assert real <= budget + tolerance(budget)
    assert abs(real - cost) <= tolerance(budget)
    # fp32 sums over log-ratios of a few nats: a few units of their rounding.
    assert abs(spent - real) <= 1e-6 + 1e-5 * real
    total = law.double().exp().sum().item()
    assert total == pytest.approx(1.0, abs=3e-6)
    if exponent == 0:
        assert torch.equal(law, p)
    else:
        assert torch.equal(law == -INF, (p == -INF) | (q == -INF))
        at_exponent = oracle.blend_row(exact(p), exact(q), exponent)
        held = at_exponent > -30
        np.testing.assert_allclose(exact(law)[held], at_exponent[held], atol=1e-4)
    return beta


def check_against_oracle(p: Tensor, q: Tensor, budget: float) -> None:
    solution = solve(p, q, budget)
    for i in range(len(p)):
        exponent, spent = solution.exponent[i].item(), solution.kl[i].item()
        check_row(p[i], q[i], budget, exponent, spent, solution.logp[i])
