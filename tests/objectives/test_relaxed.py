"""REOPOLD: the floor under the reward, and the tokens that each stage keeps.

The truth is tests/oracles, in Python floats. Shapes: V vocabulary, N tokens.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from gated_steps import (
    BEHAVIOURS,
    CLOCK,
    LN2,
    WEIGHTS,
    assert_given_tokens_change_nothing,
    assert_plan_is_that_of_the_whole_step,
    drawn_step,
    law_of,
    name,
    nothing,
    plan_on_ranks,
    random_step,
    same_models,
)

from oracles import gated
from oracles.objectives import log_softmax, softmax
from tandem.behaviours import Behaviour
from tandem.contract.checks import check_objective, failures
from tandem.contract.enumeration import (
    World,
    declared_gradient,
    expected_gradient,
    make_world,
    score_once,
)
from tandem.objectives import Relaxed, ReverseKL
from tandem.objectives.base import StepTokens
from tandem.types import Clock

FLOOR = math.log(0.25)
EARLY, LATE = Clock(3, 20), Clock(15, 20)
FORMS: list[dict[str, Any]] = [
    {"stages": "one"},
    {"stages": "one", "support": "full"},
    {"stages": "one", "baseline": "expected"},
    {"stages": "two"},
    {"stages": "two", "top_fraction": 0.4},
]
OVER_FORMS = pytest.mark.parametrize("fields", FORMS, ids=name)
OVER_CLOCKS = pytest.mark.parametrize("clock", [EARLY, LATE], ids=["early", "late"])


# ------------------------------------------------------------------ by hand, by oracle


def four_tokens() -> World:
    """Two ids; the student is at ½ everywhere but on the last, and log ρ of id 0 is log 1.8,
    log 0.6, log 0.2 (under the floor) and log 0.1."""
    p = torch.tensor([0.5, 0.5, 0.5, 0.8], dtype=torch.float64)
    q = torch.tensor([0.9, 0.3, 0.1, 0.08], dtype=torch.float64)
    pairs = [torch.stack([x, 1 - x], dim=-1).log() for x in (p, q)]
    return World(pairs[0], pairs[1], EARLY)


def mean_loss(objective: Relaxed, clock: Clock) -> tuple[list[float], float]:
    """The weights of the four tokens, and the step's loss."""
    world = four_tokens()
    tokens, signal = drawn_step(objective, world, [0] * 4)
    plan = objective.plan(StepTokens(tokens, signal, clock))
    loss, _ = score_once(objective, world.student_logits, tokens, signal, plan.weight, clock)
    return plan.weight.tolist(), (plan.weight * loss.value).sum().item() / plan.denominator


def test_the_floor_is_log_a_quarter_at_one_fifth() -> None:
    assert Relaxed().floor == pytest.approx(-1.3862943611198906)
    assert Relaxed(mixing=0.5).floor == 0.0
    assert Relaxed(mixing=0.0).floor == -math.inf


def test_one_stage_is_the_floor_alone() -> None:
    weights, loss = mean_loss(Relaxed(stages="one"), EARLY)
    assert weights == [1.0] * 4
    assert loss == pytest.approx(-(math.log(1.8) + math.log(0.6) + 2 * FLOOR) / 4)


def test_exploration_is_the_mean_over_tokens_above_the_floor() -> None:
    weights, loss = mean_loss(Relaxed(), EARLY)
    assert weights == [1.0, 1.0, 0.0, 0.0]
    assert loss == pytest.approx(-(math.log(1.8) + math.log(0.6)) / 2)


def test_refinement_is_the_mean_over_the_highest_entropies_with_the_floor() -> None:
    weights, loss = mean_loss(Relaxed(top_fraction=0.6), LATE)
    assert weights == [1.0, 1.0, 1.0, 0.0]
    assert loss == pytest.approx(-(math.log(1.8) + math.log(0.6) + FLOOR) / 3)


def test_a_token_at_the_floor_is_kept() -> None:
    p = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    q = torch.tensor([[0.125, 0.875]], dtype=torch.float64).log()
    below = World(p, q - torch.tensor([[1e-9, 0.0]], dtype=torch.float64), EARLY)
    above = World(p, q + torch.tensor([[1e-9, 0.0]], dtype=torch.float64), EARLY)
    for world, weight in ((below, 0.0), (above, 1.0)):
        tokens, signal = drawn_step(Relaxed(), world, [0])
        assert Relaxed().plan(StepTokens(tokens, signal, EARLY)).weight.item() == weight
    exact = Relaxed(mixing=0.5)
    tokens, signal = drawn_step(exact, World(p, p, EARLY), [0])
    assert exact.plan(StepTokens(tokens, signal, EARLY)).weight.item() == 1.0


def test_the_stages_change_at_half_of_the_run_or_where_the_recipe_says() -> None:
    half, at_three = Relaxed(), Relaxed(switch_step=3)
    assert [half.explores(Clock(s, 5)) for s in range(5)] == [True, True, True, False, False]
    assert [half.explores(Clock(s, 4)) for s in range(4)] == [True, True, False, False]
    assert [at_three.explores(Clock(s, 100)) for s in (0, 2, 3, 99)] == [True, True, False, False]
    assert not Relaxed(switch_step=0).explores(Clock(0, 100))


@OVER_CLOCKS
@OVER_FORMS
def test_value_and_gradient_are_the_oracles(fields: dict[str, Any], clock: Clock) -> None:
    objective = Relaxed(**fields)
    world = replace(make_world(1), clock=clock)
    gradient, value = expected_gradient(objective, world.drawn_from, world)
    z, q = world.student_logits.tolist(), world.teacher_logp.tolist()
    laws = [log_softmax(row) for row in z]
    top = gated.top_share([gated.entropy(row) for row in laws], objective.top_fraction or 1.0)
    dropped = 0
    for n in range(len(z)):
        kept = [True] * len(z[n])
        if objective.stages == "two" and clock is EARLY:
            kept = [q[n][v] - laws[n][v] >= FLOOR for v in range(len(z[n]))]
        elif objective.stages == "two":
            kept = [top[n]] * len(z[n])
        dropped += kept.count(False)
        mass = [p * k for p, k in zip(softmax(z[n]), kept, strict=True)]
        expected = gated.relaxed(z[n], q[n], mass, floor=FLOOR)
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)
    assert (dropped > 0) == (objective.stages == "two")


# ------------------------------------------------------------------ by enumeration


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=name)
@OVER_CLOCKS
@OVER_FORMS
def test_the_expected_gradient_is_the_declared_one(
    fields: dict[str, Any], clock: Clock, behaviour: Behaviour, stale: bool
) -> None:
    world = replace(make_world(2, stale=stale), clock=clock)
    law = law_of(behaviour, world)
    for importance in WEIGHTS if fields.get("support") != "full" else [dict[str, Any]()]:
        objective = Relaxed(**(fields | importance))
        found, _ = expected_gradient(objective, law, world)
        assert (found != 0).any()
        torch.testing.assert_close(found, declared_gradient(objective, law, world))


def test_both_selections_read_the_student_who_drew_the_tokens() -> None:
    world = four_tokens()
    # By the student as it is now, the third token would be above the floor and the second sure.
    p = torch.tensor([0.5, 0.01, 0.3, 0.5], dtype=torch.float64)
    now = torch.stack([p, 1 - p], dim=-1).log()
    moved = World(now, world.teacher_logp, EARLY, world.drawn_from)
    for objective, clock in ((Relaxed(), EARLY), (Relaxed(top_fraction=0.6), LATE)):
        plans = []
        for w in (world, moved):
            tokens, signal = drawn_step(objective, w, [0] * 4)
            plans.append(objective.plan(StepTokens(tokens, signal, clock)).weight.tolist())
        assert plans[0] == plans[1]


# ------------------------------------------------------------------ reductions, fixed points


@pytest.mark.parametrize("base", [{}, {"importance": "exact"}, {"baseline": "expected"}], ids=name)
def test_no_floor_in_one_stage_is_k1(base: dict[str, Any]) -> None:
    objective = Relaxed(stages="one", mixing=0.0, **base)
    same_as_k1(objective, ReverseKL.model_validate({"support": "sampled"} | base), CLOCK)


@OVER_CLOCKS
def test_no_floor_in_two_stages_that_keep_all_is_k1(clock: Clock) -> None:
    objective = Relaxed(mixing=0.0, top_fraction=1.0)
    same_as_k1(objective, ReverseKL(support="sampled"), clock)


def same_as_k1(objective: Relaxed, base: ReverseKL, clock: Clock) -> None:
    world, tokens, signal = random_step(objective, seed=3)
    step = StepTokens(tokens, signal, clock)
    plan, expected = objective.plan(step), base.plan(step)
    assert torch.equal(plan.weight, expected.weight) and plan.denominator == expected.denominator
    weight = plan.weight.double()
    (found, gradient), (other, other_gradient) = (
        score_once(o, world.student_logits, tokens, signal, weight, clock)
        for o in (objective, base)
    )
    torch.testing.assert_close(found.surrogate, other.surrogate)
    torch.testing.assert_close(found.value, other.value)
    torch.testing.assert_close(gradient, other_gradient)


def test_no_floor_over_the_vocabulary_has_the_gradient_of_reverse_kl() -> None:
    world = make_world(4)
    objective = Relaxed(stages="one", mixing=0.0, support="full")
    found, value = expected_gradient(objective, world.drawn_from, world)
    expected, divergence = expected_gradient(ReverseKL(support="full"), world.drawn_from, world)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(value, divergence)


@OVER_CLOCKS
@OVER_FORMS
def test_where_the_models_agree_value_and_gradient_are_zero(
    fields: dict[str, Any], clock: Clock
) -> None:
    world = replace(same_models(5), clock=clock)
    gradient, value = expected_gradient(Relaxed(**fields), world.drawn_from, world)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-14)
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0.0, atol=1e-14)


# ------------------------------------------------------------------ invariances


@OVER_CLOCKS
def test_the_plan_is_that_of_the_whole_step(clock: Clock) -> None:
    assert_plan_is_that_of_the_whole_step(Relaxed(top_fraction=0.4), clock)


@OVER_CLOCKS
def test_given_tokens_neither_count_nor_move_the_quantile(clock: Clock) -> None:
    assert_given_tokens_change_nothing(Relaxed(top_fraction=0.4), clock)


@OVER_CLOCKS
def test_a_step_without_a_token_selects_nothing(clock: Clock) -> None:
    for plan in plan_on_ranks(Relaxed(), [nothing(), nothing()], clock):
        assert len(plan.weight) == 0 and plan.denominator == 0.0


@OVER_FORMS
def test_the_contract_holds(fields: dict[str, Any]) -> None:
    assert not list(failures(check_objective(Relaxed(**fields))))


@pytest.mark.parametrize("fields", FORMS[:3], ids=name)
def test_masked_ids_give_finite_rewards_with_a_floor(fields: dict[str, Any]) -> None:
    # Id 1 is masked by the teacher alone, id 2 by both.
    logits = torch.tensor([[0.0, 0.0, -math.inf]], dtype=torch.float64)
    q = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).log()
    objective = Relaxed(**fields)
    tokens, signal = drawn_step(objective, World(logits, q, EARLY), [1])
    weight = torch.ones(1, dtype=torch.float64)
    loss, gradient = score_once(objective, logits, tokens, signal, weight, EARLY)
    assert gradient.isfinite().all()
    expected = (LN2 + FLOOR) / 2 if objective.support == "full" else FLOOR
    assert -loss.value.item() == pytest.approx(expected)


@pytest.mark.parametrize("mixing", [0.0, 0.2])
def test_an_id_that_the_student_masks_earns_nothing(mixing: float) -> None:
    masked = torch.tensor([-math.inf])
    for log_q in (masked, torch.tensor([-1.0])):
        reward = Relaxed(mixing=mixing).reward(log_p=masked, log_q=log_q, clock=EARLY)
        assert reward.tolist() == [0.0]
