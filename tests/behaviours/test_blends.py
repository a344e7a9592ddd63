"""The blends of student and teacher: within a budget, annealed or not, and at one exponent."""

from __future__ import annotations

import math

import pytest
import torch
from laws import law, pair, probabilities

from oracles import behaviours as oracle
from tandem.behaviours import (
    Behaviour,
    FixedBudgetBlend,
    FixedExponentBlend,
    Student,
    Teacher,
    TrustRegionBlend,
)
from tandem.core.divergences import kl
from tandem.types import Author, Clock

# p = (3/4, 1/4), q = (1/4, 3/4).
P, Q = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.25, 0.75]]).log()


def at(step: int) -> Clock:
    return Clock(step=step, total_steps=100)


def test_by_hand_half_way_between_mirrored_models_is_uniform() -> None:
    # The geometric mean of both is uniform, and KL(uniform‖p) = ½ ln(2/3) + ½ ln 2 = ½ ln(4/3).
    spent = 0.5 * math.log(4 / 3)
    for blend in (FixedExponentBlend(exponent=0.5), FixedBudgetBlend(budget=spent)):
        actual = law(blend, P, Q)
        assert actual.logp.exp()[0].tolist() == pytest.approx([0.5, 0.5], abs=3e-4)
        assert actual.stats["exponent"].item() == pytest.approx(0.5, abs=1e-3)
        assert actual.stats["kl_spent"].item() == pytest.approx(spent, rel=1.1e-3)


def test_by_hand_an_exponent_nearer_to_0_stays_nearer_to_the_student() -> None:
    # Odds 3 to 1 against 1 to 3: the blend's odds are 3^(1 − 2a), so √3 at a = ¼.
    odds = math.sqrt(3.0)
    actual = law(FixedExponentBlend(exponent=0.25), P, Q).logp.exp()[0].tolist()
    assert actual == pytest.approx([odds / (1 + odds), 1 / (1 + odds)], abs=1e-6)


@pytest.mark.parametrize("exponent", [0.1, 0.5, 0.9])
def test_one_exponent_gives_the_normalised_geometric_mean(exponent: float) -> None:
    p, q = pair(1)
    actual = law(FixedExponentBlend(exponent=exponent), p, q)
    for mu, a, b in zip(
        probabilities(actual.logp), probabilities(p), probabilities(q), strict=True
    ):
        assert mu == pytest.approx(oracle.geometric(a, b, exponent), abs=1e-6)
    torch.testing.assert_close(actual.stats["exponent"], torch.full((len(p),), exponent))


@pytest.mark.parametrize("budget", [1e-3, 0.02, 0.2])
def test_a_budget_is_spent_on_the_largest_exponent_that_fits(budget: float) -> None:
    p, q = pair(2)
    actual = law(FixedBudgetBlend(budget=budget), p, q)
    rows = zip(probabilities(actual.logp), probabilities(p), probabilities(q), strict=True)
    for n, (mu, a, b) in enumerate(rows):
        exponent = oracle.largest_exponent(a, b, budget)
        assert actual.stats["exponent"][n].item() == pytest.approx(exponent, rel=2e-3)
        assert mu == pytest.approx(oracle.geometric(a, b, exponent), abs=1e-3)
        assert oracle.kl(mu, a) <= budget * (1 + 1e-3) + 1e-6
        assert oracle.kl(mu, b) <= oracle.kl(a, b), "it moves towards the teacher"


def test_trust_region_blend_anneals_its_budget_to_0_by_hand() -> None:
    blend = TrustRegionBlend(budget=0.02, warmup_steps=4)
    budgets = [blend.budget_at(at(step)) for step in range(7)]
    assert budgets == pytest.approx([0.02, 0.015, 0.01, 0.005, 0.0, 0.0, 0.0], abs=1e-15)
    assert budgets[4:] == [0.0, 0.0, 0.0]
    assert [blend.needs_teacher(at(step)) for step in range(7)] == [True] * 4 + [False] * 3
    assert [blend.author(at(step)) for step in (3, 4)] == [Author.BLEND, Author.STUDENT]


@pytest.mark.parametrize("step", [0, 5, 9])
def test_trust_region_blend_is_the_fixed_budget_blend_of_that_steps_budget(step: int) -> None:
    p, q = pair(3)
    blend = TrustRegionBlend(budget=0.1, warmup_steps=10)
    fixed = FixedBudgetBlend(budget=0.1 * (1 - step / 10))
    actual, expected = law(blend, p, q, step=step), law(fixed, p, q)
    torch.testing.assert_close(actual.logp, expected.logp)
    torch.testing.assert_close(actual.stats, expected.stats)


@pytest.mark.parametrize(
    "blend, step",
    [
        (TrustRegionBlend(budget=0.02, warmup_steps=15), 15),
        (TrustRegionBlend(budget=0.02, warmup_steps=15), 99),
        (TrustRegionBlend(budget=0.0, warmup_steps=15), 0),
        (FixedBudgetBlend(budget=0.0), 0),
    ],
)
def test_a_zero_budget_is_the_students_own_tensor_and_needs_no_teacher(
    blend: Behaviour, step: int
) -> None:
    p, _ = pair(4)
    actual = law(blend, p, None, step=step)
    assert actual.logp is p
    assert law(Student(), p, None).logp is p
    assert actual.stats["exponent"].tolist() == [0.0] * len(p)
    assert actual.stats["kl_spent"].tolist() == [0.0] * len(p)


def test_rows_without_a_common_id_are_the_student_and_say_exponent_0() -> None:
    p = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]).log()
    q = torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]).log()
    actual = law(FixedExponentBlend(exponent=0.3), p, q)
    assert actual.logp[0].tolist() == p[0].tolist()
    assert actual.logp[1].exp().tolist() == pytest.approx([0.0, 1.0, 0.0])
    assert actual.stats["exponent"].tolist() == pytest.approx([0.0, 0.3])
    assert actual.stats["kl_spent"].tolist() == pytest.approx([0.0, math.log(2.0)])


def test_a_budget_that_reaches_the_teacher_is_the_teacher() -> None:
    p, q = pair(5)
    budget = kl(log_p=q, log_q=p).max().item() * (1 + 1e-5)
    actual, teacher = law(FixedBudgetBlend(budget=budget), p, q), law(Teacher(), p, q)
    torch.testing.assert_close(actual.logp, teacher.logp, atol=1e-6, rtol=0.0)
    assert actual.stats["exponent"].tolist() == [1.0] * len(p)


def test_the_teacher_spends_the_forward_kl() -> None:
    actual = law(Teacher(), P, Q)
    assert actual.logp is Q
    assert actual.stats["exponent"].item() == 1.0
    # KL(q‖p) = ¼ ln(1/3) + ¾ ln 3 = ½ ln 3.
    assert actual.stats["kl_spent"].item() == pytest.approx(0.5 * math.log(3.0), abs=1e-6)


def test_a_budget_is_told_for_the_log_only_where_there_is_one() -> None:
    assert FixedBudgetBlend(budget=0.03).budget_at(at(50)) == 0.03
    for other in (Student(), Teacher(), FixedExponentBlend(exponent=0.5)):
        assert other.budget_at(at(0)) is None
