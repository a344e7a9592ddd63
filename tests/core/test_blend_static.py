"""The branch-free solver against the oracle and against the one that branches."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from blend_rows import BUDGETS, exact, pair, solve
from torch import Tensor

from oracles import blend as oracle
from tandem.core.blend import blend_logp
from tandem.core.blend_static import blend_static, fused, solve_static


def tolerance(budget: float) -> float:
    return 2e-3 * budget + 5e-7


def check(p: Tensor, q: Tensor, budget: float) -> None:
    """Feasible, as generous as can be, a law, on its support; the ends bit for bit."""
    exponent, spent, law = solve_static(p, q, budget)
    assert not law.isnan().any()
    torch.testing.assert_close(
        law.double().exp().sum(-1), torch.ones(len(p)).double(), atol=5e-6, rtol=0
    )
    for i in range(len(p)):
        beta, cost, _ = oracle.bisect_row(p[i].double().numpy(), q[i].double().numpy(), budget)
        found = float(exponent[i])
        real = oracle.spent(exact(law[i]), exact(p[i])) if found > 0 else 0.0
        assert real <= budget + tolerance(budget)
        assert abs(real - cost) <= tolerance(budget), (beta, found)
        assert abs(float(spent[i]) - real) <= 2e-6 + 1e-4 * real
        if found == 0.0:
            assert torch.equal(law[i], p[i])
        else:
            assert torch.equal(law[i] == -math.inf, (p[i] == -math.inf) | (q[i] == -math.inf))


@pytest.mark.parametrize("budget", [0.0, *BUDGETS])
@pytest.mark.parametrize(
    ("spread", "gap"), [(0.0, 0.3), (2.0, 1.0), (6.0, 2.0)], ids=["flat", "usual", "peaked"]
)
def test_it_agrees_with_bisection(spread: float, gap: float, budget: float) -> None:
    for size in (2, 20, 500):
        check(*pair(20, size, spread=spread, gap=gap), budget)


@pytest.mark.parametrize("budget", BUDGETS)
def test_it_agrees_on_near_deterministic_rows(budget: float) -> None:
    for gap in (8.0, 30.0, 120.0):
        check(*pair(30, 20, spread=gap, gap=gap), budget)


@pytest.mark.parametrize("budget", BUDGETS)
def test_it_agrees_on_rows_with_masks_shared_and_not(budget: float) -> None:
    check(*pair(30, 20, masked=0.5), budget)
    check(*pair(60, 20, masked=0.1, one_sided=0.05), budget)


def test_identical_and_disjoint_rows() -> None:
    p, _ = pair(4, 9)
    exponent, spent, law = solve_static(p, p.clone(), 0.1)
    assert torch.equal(exponent, torch.ones(4)) and float(spent.abs().max()) < 1e-6
    torch.testing.assert_close(law, p, atol=1e-6, rtol=0)
    p = torch.tensor([[0.0, -math.inf]])
    exponent, spent, law = solve_static(p, p.flip(-1), 5.0)
    assert exponent.item() == spent.item() == 0.0 and torch.equal(law, p)


def test_a_budget_for_each_row() -> None:
    p, q = pair(6, 50)
    budgets = torch.tensor([0.0, 1e-3, 1e-2, 0.1, 1.0, 100.0])
    together = solve_static(p, q, budgets)
    for i, budget in enumerate(budgets.tolist()):
        alone = solve_static(p[i : i + 1], q[i : i + 1], budget)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, atol=1e-6, rtol=1e-5)


def test_it_is_the_blend_of_the_branching_solver() -> None:
    p, q = pair(64, 300, spread=4.0)
    for budget in (1e-3, 1e-2, 0.1):
        truth = solve(p, q, budget)
        exponent, spent, law = solve_static(p, q, budget)
        assert float((exponent - truth.exponent).abs().max()) < 3e-3
        assert float((spent - truth.kl).abs().max()) < 3e-3 * budget
        assert float((law.exp() - truth.logp.exp()).abs().sum(-1).max()) < 2e-3


def test_given_exponents_give_the_blend_of_the_branching_form() -> None:
    p, q = pair(40, 60, masked=0.1, one_sided=0.05)
    exponents = torch.linspace(0, 1, 40)
    truth, cost = blend_logp(student_logp=p, teacher_logp=q, exponent=exponents)
    law, spent = blend_static(p, q, exponents)
    torch.testing.assert_close(law.exp(), truth.exp(), atol=1e-6, rtol=0)
    torch.testing.assert_close(spent, cost, atol=3e-6, rtol=1e-4)
    assert torch.equal(law[0], p[0]) and float(spent[0]) == 0.0
    apart = torch.tensor([[0.0, -math.inf]])
    law, spent = blend_static(apart, apart.flip(-1), 0.5)
    assert torch.equal(law, apart) and spent.item() == 0.0


@pytest.mark.slow
# torch's own compiler imports what torch deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
def test_the_fused_solver_is_its_eager_twin() -> None:
    """As a GPU runs it, compiled here for the CPU: any number of rows, and a budget of each."""
    generator = torch.Generator().manual_seed(0)
    for rows in (3, 8, 5):
        p, q = pair(rows, 600, seed=rows)
        q[0, 3:40] = -math.inf
        p[1, 50:90] = q[1, 50:90] = -math.inf
        budgets = torch.rand(rows, generator=generator) * 0.2
        budgets[2] = 0.0
        found, truth = fused()(p, q, budgets), solve_static(p, q, budgets)
        for ours, theirs in zip(found, truth, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
        assert torch.equal(found[2][2], p[2])
