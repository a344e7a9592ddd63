"""OPD on the tokens with the highest student entropies of the whole step.

The truth is tests/oracles, in Python floats. Shapes: V vocabulary, N tokens.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gated_steps import (
    BEHAVIOURS,
    CLOCK,
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
from pydantic import ValidationError

from oracles import gated, objectives
from tandem.behaviours import Behaviour, Teacher
from tandem.contract.checks import check_objective, failures
from tandem.contract.enumeration import (
    World,
    declared_gradient,
    expected_gradient,
    make_world,
    score_once,
)
from tandem.objectives import EntropySelected, ReverseKL
from tandem.objectives.base import StepTokens
from tandem.types import SignalSpec

FORMS: list[dict[str, Any]] = [
    {"support": "sampled"},
    {"support": "sampled", "baseline": "expected"},
    {"support": "full"},
    {"support": "student_topk", "top_k": 3},
]
OVER_FORMS = pytest.mark.parametrize("fields", FORMS, ids=name)


# ------------------------------------------------------------------ by hand, by oracle


def five_prefixes() -> World:
    """Student laws (1−a, a) of rising a up to ½, out of order; entropies .33, .69, .06, .50, .61.
    The teacher is uniform."""
    a = torch.tensor([0.1, 0.5, 0.01, 0.2, 0.3], dtype=torch.float64)
    p = torch.stack([1 - a, a], dim=-1)
    return World(p.log(), torch.full_like(p, 0.5).log(), CLOCK)


def test_one_step_worked_by_hand() -> None:
    world = five_prefixes()
    objective = EntropySelected(support="full", fraction=0.4)
    tokens, signal = drawn_step(objective, world, [0, 0, 1, 0, 1])
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    # Two of five: a = ½ and a = 0.3. The divisor counts all five.
    assert plan.weight.tolist() == [0.0, 1.0, 0.0, 0.0, 1.0]
    assert plan.denominator == 5.0
    loss, _ = score_once(objective, world.student_logits, tokens, signal, plan.weight, CLOCK)
    mean = (plan.weight * loss.value).sum().item() / plan.denominator
    # KL((½, ½)‖uniform) = 0; KL((0.7, 0.3)‖uniform) = log 2 − 0.6109 = 0.0823.
    assert mean == pytest.approx(0.0823 / 5, abs=1e-5)


def test_equal_entropies_at_the_threshold_are_all_in() -> None:
    world = five_prefixes()
    logits = world.student_logits[[1, 3, 3, 3, 0]]
    objective = EntropySelected(support="full", fraction=0.4)
    tokens, signal = drawn_step(objective, World(logits, world.teacher_logp, CLOCK), [0] * 5)
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    assert plan.weight.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.55, 0.9, 1.0])
@OVER_FORMS
def test_the_plan_is_the_oracles_top_share_of_the_trained_tokens(
    fields: dict[str, Any], fraction: float
) -> None:
    objective = EntropySelected(fraction=fraction, **fields)
    world, tokens, signal = random_step(objective, seed=1)
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    sampled = fields["support"] == "sampled"
    rows = [n for n in range(len(tokens)) if not (sampled and tokens.forced[n])]
    entropies = [gated.entropy(world.drawn_from[n].tolist()) for n in rows]
    kept = {n for n, top in zip(rows, gated.top_share(entropies, fraction), strict=True) if top}
    assert {n for n, w in enumerate(plan.weight.tolist()) if w == 1.0} == kept
    assert plan.weight.sum() == len(kept) and plan.denominator == len(rows)


def test_value_and_gradient_are_the_oracles_on_the_prefixes_that_count() -> None:
    world = make_world(2)
    objective = EntropySelected(fraction=0.4)
    gradient, value = expected_gradient(objective, world.drawn_from, world)
    z, q = world.student_logits.tolist(), world.teacher_logp.tolist()
    kept = gated.top_share([gated.entropy(objectives.log_softmax(row)) for row in z], 0.4)
    assert sum(kept) == 2
    for n in range(len(z)):
        expected = objectives.full(z[n], q[n]) if kept[n] else (0.0, [0.0] * len(z[n]))
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


# ------------------------------------------------------------------ by enumeration


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=name)
@OVER_FORMS
def test_the_expected_gradient_is_the_declared_one(
    fields: dict[str, Any], behaviour: Behaviour, stale: bool
) -> None:
    world = make_world(3, stale=stale)
    law = law_of(behaviour, world)
    for importance in WEIGHTS if fields["support"] == "sampled" else [dict[str, Any]()]:
        objective = EntropySelected(fraction=0.3, **(fields | importance))
        found, _ = expected_gradient(objective, law, world)
        assert (found == 0).all(-1).any() and (found != 0).any()
        torch.testing.assert_close(found, declared_gradient(objective, law, world))


def test_the_entropy_is_that_of_the_student_who_drew_the_tokens() -> None:
    objective = EntropySelected(support="full", fraction=0.2)
    world = five_prefixes()
    moved = World(world.student_logits.flip(0), world.teacher_logp, CLOCK, world.drawn_from)
    tokens, signal = drawn_step(objective, moved, [0] * 5)
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    assert plan.weight.tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]


# ------------------------------------------------------------------ reductions, fixed points


@OVER_FORMS
def test_fraction_1_is_reverse_kl(fields: dict[str, Any]) -> None:
    objective, base = EntropySelected(fraction=1.0, **fields), ReverseKL(**fields)
    world, tokens, signal = random_step(objective, seed=4)
    step = StepTokens(tokens, signal, CLOCK)
    plan, expected = objective.plan(step), base.plan(step)
    assert torch.equal(plan.weight, expected.weight) and plan.denominator == expected.denominator
    weight = plan.weight.double()
    (found, gradient), (other, other_gradient) = (
        score_once(o, world.student_logits, tokens, signal, weight, CLOCK)
        for o in (objective, base)
    )
    assert torch.equal(found.surrogate, other.surrogate) and torch.equal(found.value, other.value)
    assert torch.equal(gradient, other_gradient)


@OVER_FORMS
def test_where_the_models_agree_value_and_gradient_are_zero(fields: dict[str, Any]) -> None:
    world = same_models(5)
    objective = EntropySelected(fraction=0.4, **fields)
    gradient, value = expected_gradient(objective, world.drawn_from, world)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-14)
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0.0, atol=1e-14)


# ------------------------------------------------------------------ invariances


@OVER_FORMS
def test_the_plan_is_that_of_the_whole_step(fields: dict[str, Any]) -> None:
    assert_plan_is_that_of_the_whole_step(EntropySelected(fraction=0.3, **fields))


def test_given_tokens_neither_count_nor_move_the_quantile() -> None:
    assert_given_tokens_change_nothing(EntropySelected(fraction=0.3))


def test_given_tokens_stand_for_selection_where_the_drawn_one_is_never_read() -> None:
    objective = EntropySelected(support="full", fraction=0.2)
    tokens, signal = drawn_step(objective, five_prefixes(), [0] * 5, given=[1])
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    assert plan.weight.tolist() == [0.0, 1.0, 0.0, 0.0, 0.0] and plan.denominator == 5.0


def test_a_step_without_a_token_selects_nothing() -> None:
    objective = EntropySelected()
    (plan, other) = plan_on_ranks(objective, [nothing(), nothing()])
    assert len(plan.weight) == 0 and plan.denominator == other.denominator == 0.0


@OVER_FORMS
def test_the_contract_holds(fields: dict[str, Any]) -> None:
    assert not list(failures(check_objective(EntropySelected(**fields))))


# ------------------------------------------------------------------ defaults and refusals


def test_the_defaults_are_the_papers() -> None:
    objective = EntropySelected()
    assert (objective.fraction, objective.support) == (0.2, "sampled")
    assert objective.realisation == "policy_gradient"
    assert objective.needs() == SignalSpec(sampled=True, student_entropy=True)


@pytest.mark.parametrize("fraction", [0.0, -0.2, 1.5])
def test_a_share_outside_0_to_1_is_refused_in_one_sentence(fraction: float) -> None:
    with pytest.raises(ValidationError) as caught:
        EntropySelected(fraction=fraction)
    assert caught.value.errors()[0]["msg"] == (
        f"Value error, fraction is {fraction}, but the share of tokens that count lies in (0, 1]: "
        "give 0.2, for example."
    )


def test_another_law_without_a_weight_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        EntropySelected().check(Teacher(), updates_per_rollout=1)
    assert str(caught.value) == (
        "objective entropy_selected scores the drawn token as if the student had drawn it, but "
        "behaviour teacher draws from another law, which biases the gradient: set importance to "
        "exact, truncated or clipped, or use support student_topk or full."
    )
