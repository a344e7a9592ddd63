"""The branch-free solver where its cubic fails: rows so sharp that no point inside is near ε."""

from __future__ import annotations

import math

import pytest
import torch
from blend_rows import BUDGETS, pair
from torch import Tensor

from tandem.core.blend_static import solve_static


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


def test_rows_without_a_common_id_stay_the_student_under_any_budget() -> None:
    p = torch.tensor([[0.0, -math.inf], [math.log(0.5), math.log(0.5)]])
    q = torch.tensor([[-math.inf, 0.0], [math.log(0.9), math.log(0.1)]])
    exponent, cost, law = solve_static(p, q, math.inf)
    assert exponent.tolist() == [0.0, 1.0] and torch.equal(law[0], p[0]) and cost[0] == 0.0
    torch.testing.assert_close(law[1], q[1])
