"""The branch-free solver where its cubic fails: rows so sharp that no point inside is near ε."""

from __future__ import annotations

import math

import pytest
import torch
from blend_rows import BUDGETS, pair, solve
from torch import Tensor

from tandem.core import blend_static as blend_static_module
from tandem.core.blend import blend_logp
from tandem.core.blend_static import blend_static, solve_static


def spent(law: Tensor, p: Tensor) -> Tensor:
    """KL(law‖p) of rows [N, V], in float64."""
    law, p = law.double().log_softmax(-1), p.double().log_softmax(-1)
    return torch.where(law > -math.inf, law.exp() * (law - p), 0.0).sum(-1)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("size", [2, 20, 500])
def test_no_row_however_sharp_costs_more_than_its_budget(size: int, budget: float) -> None:
    """A trial beyond the budget is given up for the bracket's feasible end."""
    for one_sided in (0.0, 0.2):
        p, q = pair(100, size, spread=300.0, gap=300.0, one_sided=one_sided, seed=size)
        exponent, cost, law = solve_static(p, q, budget)
        # Log-probs of some thousand nats have no more digits than this.
        slack = 2e-3 * budget + 5e-7 + 2e-5
        blended = exponent > 0
        assert float(cost.max()) <= budget + slack
        assert bool((spent(law, p)[blended] <= budget + 2 * slack).all())


def test_exponent_zero_is_the_student_bit_for_bit_also_where_the_search_ends_there() -> None:
    """Not the student on the common support: ids that only the student has stay possible."""
    met = 0
    for budget in (1e-4, 1e-3):
        p, q = pair(100, 20, spread=300.0, gap=300.0, one_sided=0.2, seed=20)
        exponent, cost, law = solve_static(p, q, budget)
        none = exponent == 0.0
        common = (p > -math.inf) & (q > -math.inf)
        lost = -p.double().masked_fill(~common, -math.inf).logsumexp(-1)
        met += int((none & (lost < budget) & (lost > -math.inf)).sum())
        assert torch.equal(law[none], p[none]) and not cost[none].any()
    assert met, "no row whose search ends at 0: choose others"


def test_the_feasible_end_that_a_trial_is_given_up_for_is_a_law_with_its_own_exponent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blend_static_module, "ABSOLUTE", -1.0)  # no trial fits
    p, q = pair(200, 20)
    exponent, cost, law = solve_static(p, q, 0.01)
    full = solve(p, q, 0.01).exponent
    assert (exponent <= full).all() and (exponent >= full - 1 / 729 - 1e-6).all()
    blended = (exponent > 0) & (exponent < 1)
    total = law.double().exp().sum(-1)[blended]
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)
    truth, spent_there = blend_logp(student_logp=p, teacher_logp=q, exponent=exponent)
    torch.testing.assert_close(law[blended].exp(), truth[blended].exp(), atol=1e-5, rtol=0)
    torch.testing.assert_close(cost[blended], spent_there[blended], atol=1e-6, rtol=1e-3)


def test_a_budget_of_exactly_the_whole_divergence_buys_the_teacher() -> None:
    p, q = pair(40, 20)
    whole = solve_static(p, q, math.inf)[1]
    exponent, _, law = solve_static(p, q, whole)
    assert (exponent == 1).all()
    torch.testing.assert_close(law, q)


def test_what_is_no_number_stays_none() -> None:
    p, q = pair(3, 8)
    for broken_p, broken_q in ((True, False), (False, True)):
        mine, theirs = p.clone(), q.clone()
        if broken_p:
            mine[1, 3] = math.nan
        if broken_q:
            theirs[1, 3] = math.nan
        for parts in (solve_static(mine, theirs, 0.05), blend_static(mine, theirs, 0.5)):
            for part in parts:
                assert part[1].isnan().any() and not part[[0, 2]].isnan().any()
    budgets = torch.tensor([0.05, math.nan, 0.05])
    assert [bool(x.isnan()) for x in solve_static(p, q, budgets)[0]] == [False, True, False]
    law, _ = blend_static(p, q, torch.tensor([0.5, 1.5, -0.1]))
    assert [bool(x.isnan().any()) for x in law] == [False, True, True]


def test_a_given_exponent_between_models_far_apart_costs_what_it_costs() -> None:
    p, q = pair(30, 30, spread=0.0035, gap=341.0)
    for exponent in (0.3, 0.596, 0.9):
        _, truth = blend_logp(student_logp=p.double(), teacher_logp=q.double(), exponent=exponent)
        _, cost = blend_static(p, q, exponent)
        torch.testing.assert_close(cost.double(), truth, rtol=2e-3, atol=2e-4)


def test_rows_without_a_common_id_stay_the_student_under_any_budget() -> None:
    p = torch.tensor([[0.0, -math.inf], [math.log(0.5), math.log(0.5)]])
    q = torch.tensor([[-math.inf, 0.0], [math.log(0.9), math.log(0.1)]])
    exponent, cost, law = solve_static(p, q, math.inf)
    assert exponent.tolist() == [0.0, 1.0] and torch.equal(law[0], p[0]) and cost[0] == 0.0
    torch.testing.assert_close(law[1], q[1])
