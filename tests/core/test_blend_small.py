"""The solver for few ids: what it leaves to the other one, and what a row may depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from blend_rows import BUDGETS, exact, pair, solve
from torch import Tensor

from oracles import blend as oracle
from tandem.core import blend, blend_small
from tandem.core.blend import blend_logp
from tandem.core.blend_small import BLOCK, FEW, solve_small


def rows(budget: float, count: int) -> np.ndarray:
    return np.full(count, budget)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("gap", [0.3, 2.0, 8.0])
def test_both_solvers_find_the_same(
    gap: float, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, q = pair(200, 40, spread=2 * gap, gap=gap, masked=0.1)
    few = solve(p, q, budget)
    monkeypatch.setattr(blend, "FEW", 0)
    many = solve(p, q, budget)
    # What each may spend less than the budget, as a change of the exponent.
    torch.testing.assert_close(few.kl, many.kl, rtol=1e-3, atol=1e-6)
    assert torch.equal(few.exponent == 1, many.exponent == 1)
    assert torch.equal(few.exponent == 0, many.exponent == 0)


@pytest.mark.parametrize("budget", [1e-3, 0.03, 0.3])
def test_it_spends_the_budget_to_two_parts_in_a_million(budget: float) -> None:
    p, q = pair(300, 30)
    small = solve_small(p, q, rows(budget, 300))
    assert small.settled.all()
    inside = (small.exponent > 0) & (small.exponent < 1)
    assert inside.sum() > 200
    # From the exponent: the law's own rounding to fp32 is larger than what is asked for here.
    for i in np.flatnonzero(inside):
        law = oracle.blend_row(exact(p[i]), exact(q[i]), small.exponent[i])
        spent = oracle.spent(law, exact(p[i]))
        assert spent == pytest.approx(budget, rel=2e-6)
    np.testing.assert_allclose(small.kl[inside], budget, rtol=1e-6)


def test_a_row_depends_on_nothing_but_itself() -> None:
    size = 300
    count = 2 * (BLOCK // size) + 7
    p, q = pair(count, size, masked=0.05)
    whole = solve_small(p, q, rows(0.02, count))
    for at in (slice(0, 1), slice(40, 41), slice(50, 90), slice(count - 3, count)):
        part = solve_small(p[at], q[at], rows(0.02, at.stop - at.start))
        for name in ("exponent", "kl", "law", "settled"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[at]), (name, at)


def test_rounding_moves_what_is_found_by_as_much_as_rounding() -> None:
    p, q = pair(2000, 24)
    moved_p, moved_q = (p.double() * (1 + 2e-7)).float(), (q.double() * (1 - 2e-7)).float()
    before = solve_small(p, q, rows(0.01, len(p)))
    after = solve_small(moved_p, moved_q, rows(0.01, len(p)))
    assert np.abs(before.exponent - after.exponent).max() < 1e-5


def test_rows_with_an_id_in_one_model_alone_are_left_to_the_other_solver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p, q = pair(6, 20, masked=0.2)
    q[2, 0] = -math.inf
    q[2] = q[2].log_softmax(-1)
    small = solve_small(p, q, rows(0.05, 6))
    assert small.settled.tolist() == [True, True, False, True, True, True]
    mixed = solve(p, q, 0.05)
    monkeypatch.setattr(blend, "FEW", 0)
    alone = solve(p[2], q[2], 0.05)
    assert torch.equal(mixed.logp[2], alone.logp) and mixed.exponent[2] == alone.exponent


def test_rows_on_which_newton_does_not_arrive_are_left_to_the_other_solver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blend_small, "MAX_PASSES", 1)
    p, q = pair(50, 20)
    small = solve_small(p, q, rows(0.05, 50))
    assert not small.settled.all()
    found = solve(p, q, 0.05)
    assert ((found.kl - 0.05).abs()[found.exponent < 1] <= 1e-3 * 0.05 + 5e-7).all()


def test_an_exponent_that_single_precision_cannot_hold_is_left_to_the_other_solver() -> None:
    """Where models differ by a million nats, the nearest number of fp32 overspends."""
    p = torch.tensor([[0.0, -1e6]])
    q = torch.tensor([[1 - 1e-6, 1e-6]], dtype=torch.float64).log().float()
    assert not solve_small(p, q, rows(0.9198305, 1)).settled.any()
    found = solve(p, q, 0.9198305)
    law, of_p = found.logp.double(), p.double()
    spent = float((law.exp() * (law - of_p)).sum())
    assert spent <= 0.9198305 * 1.001 + 5e-7 and float(found.kl) <= 0.9198305 * 1.001


@pytest.mark.parametrize("budget", [1e-10, 1e-13, 1e-16, 1e-18])
def test_tiny_budgets_never_give_negative_exponents(
    budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, q = pair(500, 20)
    for few in (FEW, 0):
        monkeypatch.setattr(blend, "FEW", few)
        found = solve(p, q, budget)
        assert (found.exponent >= 0).all() and (found.kl >= 0).all()
        blend_logp(student_logp=p, teacher_logp=q, exponent=found.exponent)


def test_a_budget_of_exactly_the_whole_divergence_buys_the_teacher() -> None:
    p, q = pair(40, 20)
    whole = solve_small(p, q, rows(np.inf, 40))
    exact_budget = solve_small(p, q, whole.kl)
    assert (exact_budget.exponent == 1).all() and np.array_equal(exact_budget.law, q.numpy())


def test_rows_without_a_budget_are_not_searched() -> None:
    p, q = pair(5, 20)
    small = solve_small(p, q, np.array([0.0, -1.0, 0.1, 0.0, -np.inf]))
    assert small.settled.all()
    assert (small.passes > 0).tolist() == [False, False, True, False, False]


def test_rows_that_are_handed_over_count_the_passes_of_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blend_small, "MAX_PASSES", 1)
    p, q = pair(50, 20)
    both = solve(p, q, 0.05).passes
    left = ~torch.from_numpy(solve_small(p, q, rows(0.05, 50)).settled)
    monkeypatch.setattr(blend, "FEW", 0)
    assert left.any() and torch.equal(both[left], 1 + solve(p, q, 0.05).passes[left])


def test_the_law_lies_in_memory_as_the_other_solvers_does() -> None:
    p, q = pair(12, 20)
    turned = solve(p.t().contiguous().t(), q.t().contiguous().t(), 0.05)
    assert turned.logp.is_contiguous() and torch.equal(turned.logp, solve(p, q, 0.05).logp)


def test_nan_is_never_settled() -> None:
    p, q = pair(3, 8)
    for table in (p, q):
        broken: Tensor = table.clone()
        broken[1, 3] = math.nan
        mine, theirs = (broken, q) if table is p else (p, broken)
        assert solve_small(mine, theirs, rows(0.05, 3)).settled.tolist() == [True, False, True]
        with pytest.raises(AssertionError, match="nan"):
            solve(mine, theirs, 0.05)


def test_the_vocabulary_alone_decides_who_solves(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    usual = blend.solve_small

    def noted(student: Tensor, teacher: Tensor, budget: np.ndarray) -> blend_small.Small:
        asked.append(tuple(student.shape))
        return usual(student, teacher, budget)

    monkeypatch.setattr(blend, "solve_small", noted)
    for count, size in ((1, FEW), (900, 3), (2, FEW + 1)):
        solve(*pair(count, size), 0.05)
    p, q = pair(2, 5)
    solve(p.double(), q.double(), 0.05)
    assert asked == [(1, FEW), (900, 3)]
