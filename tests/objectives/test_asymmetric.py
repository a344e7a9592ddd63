"""AOPD: a policy gradient or the forward KL, by the sign of q(y) − p(y).

The truth is tests/oracles, in Python floats. Shapes: V vocabulary, N tokens.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gated_steps import (
    BEHAVIOURS,
    CLOCK,
    LN2,
    WEIGHTS,
    P,
    Q,
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
from torch import Tensor

from oracles import gated
from tandem.behaviours import Behaviour, Teacher
from tandem.contract.checks import check_objective, failures
from tandem.contract.enumeration import (
    World,
    declared_gradient,
    expected_gradient,
    make_world,
    score_once,
    signal_of,
)
from tandem.objectives import Asymmetric, ForwardKL, ReverseKL
from tandem.objectives.base import StepTokens
from tandem.types import SignalSpec

K = 3
FORMS: list[dict[str, Any]] = [
    {},
    {"threshold": 0.05},
    {"threshold": -0.3},
    {"baseline": "expected"},
    {"baseline": "expected", "threshold": -0.1},
]
OVER_FORMS = pytest.mark.parametrize("fields", FORMS, ids=name)


def aopd(fields: dict[str, Any], **more: Any) -> Asymmetric:
    every: dict[str, Any] = {"top_k": K} | fields | more
    return Asymmetric(**every)


def oracle_fields(objective: Asymmetric) -> dict[str, Any]:
    return {
        "threshold": objective.threshold,
        "top_k": objective.top_k,
        "baseline": objective.baseline == "expected",
    }


def one_token(y: int, **fields: Any) -> tuple[float, list[float]]:
    """Value and gradient of the token y where p = (½, ¼, ¼) and q = (¼, ½, ¼)."""
    objective = Asymmetric(top_k=2, **fields)
    world = World(P.log(), Q.log(), CLOCK)
    tokens, signal = drawn_step(objective, world, [y])
    weight = torch.ones(1, dtype=torch.float64)
    loss, gradient = score_once(objective, P.log(), tokens, signal, weight, CLOCK)
    return loss.value.item(), gradient[0].tolist()


# ------------------------------------------------------------------ by hand, by oracle


def test_a_token_that_the_teacher_likes_better_takes_the_policy_gradient() -> None:
    # Reward log(½ / ¼) = log 2; −log 2 (e_1 − p).
    value, gradient = one_token(1)
    assert value == pytest.approx(-LN2, abs=1e-14)
    assert gradient == pytest.approx([0.5 * LN2, -0.75 * LN2, 0.25 * LN2], abs=1e-14)


@pytest.mark.parametrize("y", [0, 2])
def test_any_other_token_takes_the_forward_kl_a_tie_included(y: int) -> None:
    # On the teacher's top two ¼ log 2; m_T p − q 1[K] with m_T = ¾.
    value, gradient = one_token(y)
    assert value == pytest.approx(0.25 * LN2, abs=1e-14)
    assert gradient == pytest.approx([0.125, -0.3125, 0.1875], abs=1e-14)


def test_the_gate_is_the_difference_of_probabilities_against_the_threshold() -> None:
    assert one_token(1, threshold=0.24)[0] == pytest.approx(-LN2)
    assert one_token(1, threshold=0.25)[0] == pytest.approx(0.25 * LN2)
    assert one_token(0, threshold=-0.24)[0] == pytest.approx(0.25 * LN2)
    assert one_token(0, threshold=-0.26)[0] == pytest.approx(LN2)


def test_each_response_is_a_mean_over_its_trained_tokens_and_the_step_over_responses() -> None:
    # Responses of four and two; the first two tokens of the one and all of the other were given.
    objective = aopd({})
    world = make_world(1, prefixes=6)
    tokens, signal = drawn_step(objective, world, [0] * 6, given=[0, 1])
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    assert plan.weight.tolist() == [0.0, 0.0, 0.5, 0.5, 0.5, 0.5] and plan.denominator == 2.0
    tokens, signal = drawn_step(objective, world, [0] * 6, given=[1, 4, 5])
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    third = pytest.approx(1 / 3)
    assert plan.weight.tolist() == [third, 0.0, third, third, 0.0, 0.0]
    assert plan.denominator == 1.0


def test_the_plan_is_the_oracles() -> None:
    objective = aopd({})
    _, tokens, signal = random_step(objective, seed=2)
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    trained = (~tokens.forced).tolist()
    expected = gated.mean_over_each_response(tokens.sequence.tolist(), trained)
    assert plan.weight.tolist() == pytest.approx(expected)
    assert plan.denominator == 4.0 == pytest.approx(math.fsum(expected))


@OVER_FORMS
def test_value_and_gradient_are_the_oracles(fields: dict[str, Any]) -> None:
    world = make_world(3)
    assert_as_the_oracle(aopd(fields), world.drawn_from, world, world.drawn_from.exp())


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=name)
@OVER_FORMS
def test_exact_weights_give_the_same_under_every_behaviour(
    fields: dict[str, Any], behaviour: Behaviour
) -> None:
    world = make_world(4, stale=True)
    p = torch.softmax(world.student_logits, -1)
    assert_as_the_oracle(aopd(fields, importance="exact"), law_of(behaviour, world), world, p)


def test_a_truncated_weight_multiplies_both_branches() -> None:
    world = make_world(5)
    law = law_of(Teacher(), world)
    objective = aopd({}, importance="truncated", importance_limit=1.1)
    mass = torch.minimum(torch.softmax(world.student_logits, -1), 1.1 * law.exp())
    assert_as_the_oracle(objective, law, world, mass)


def assert_as_the_oracle(objective: Asymmetric, law: Tensor, world: World, mass: Tensor) -> None:
    """Value and gradient at every prefix, with mu(v) · weight(v) = mass [n, V]."""
    gradient, value = expected_gradient(objective, law, world)
    z, q = world.student_logits.tolist(), world.teacher_logp.tolist()
    for n in range(len(z)):
        expected = gated.asymmetric(z[n], q[n], mass[n].tolist(), **oracle_fields(objective))
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


# ------------------------------------------------------------------ by enumeration


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=name)
@pytest.mark.parametrize("importance", WEIGHTS, ids=name)
@OVER_FORMS
def test_the_expected_gradient_is_the_declared_one(
    fields: dict[str, Any], importance: dict[str, Any], behaviour: Behaviour, stale: bool
) -> None:
    world = make_world(6, stale=stale)
    law = law_of(behaviour, world)
    objective = aopd(fields | importance)
    found, _ = expected_gradient(objective, law, world)
    torch.testing.assert_close(found, declared_gradient(objective, law, world))


def test_a_baseline_changes_no_expected_gradient() -> None:
    world = make_world(7)
    with_it, value = expected_gradient(aopd({"baseline": "expected"}), world.drawn_from, world)
    without, other = expected_gradient(aopd({}), world.drawn_from, world)
    torch.testing.assert_close(with_it, without)
    torch.testing.assert_close(value, other)


# ------------------------------------------------------------------ reductions, fixed points


@pytest.mark.parametrize("base", [{}, *WEIGHTS, {"baseline": "expected"}], ids=name)
def test_threshold_minus_1_is_k1_with_a_mean_per_response(base: dict[str, Any]) -> None:
    objective = aopd(base, threshold=-1.0)
    k1 = ReverseKL.model_validate({"support": "sampled"} | base)
    assert_same_loss(objective, k1, seed=8)


def test_threshold_1_is_the_forward_kl_on_the_teachers_top_k() -> None:
    assert_same_loss(aopd({}, threshold=1.0), ForwardKL(support="teacher_topk", top_k=K), seed=9)


def assert_same_loss(objective: Asymmetric, base: ReverseKL | ForwardKL, *, seed: int) -> None:
    world, tokens, signal = random_step(objective, seed=seed)
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    trained = (~tokens.forced).tolist()
    expected = gated.mean_over_each_response(tokens.sequence.tolist(), trained)
    assert plan.weight.tolist() == pytest.approx(expected)
    weight = plan.weight.double()
    (found, gradient), (other, other_gradient) = (
        score_once(o, world.student_logits, tokens, signal, weight, CLOCK)
        for o in (objective, base)
    )
    torch.testing.assert_close(found.surrogate, other.surrogate)
    torch.testing.assert_close(found.value, other.value)
    torch.testing.assert_close(gradient, other_gradient)


@pytest.mark.parametrize("fields", [{}, {"baseline": "expected"}], ids=name)
def test_where_the_models_agree_every_token_takes_the_truncated_forward_kl(
    fields: dict[str, Any],
) -> None:
    world = same_models(10)
    gradient, value = expected_gradient(aopd(fields), world.drawn_from, world)
    p = world.drawn_from.exp()
    top = p.topk(K)
    inside = torch.zeros_like(p).scatter(-1, top.indices, top.values)
    expected = top.values.sum(-1, keepdim=True) * p - inside
    torch.testing.assert_close(gradient, expected, rtol=0.0, atol=1e-14)
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0.0, atol=1e-14)


# ------------------------------------------------------------------ invariances


def test_the_plan_is_that_of_the_whole_step() -> None:
    assert_plan_is_that_of_the_whole_step(aopd({}))


def test_given_tokens_count_neither_in_the_sum_nor_in_the_length() -> None:
    assert_given_tokens_change_nothing(aopd({}))


def test_a_step_without_a_token_divides_by_nothing() -> None:
    for plan in plan_on_ranks(aopd({}), [nothing(), nothing()]):
        assert len(plan.weight) == 0 and plan.denominator == 0.0


@OVER_FORMS
def test_the_contract_holds(fields: dict[str, Any]) -> None:
    assert not list(failures(check_objective(aopd(fields))))


def test_a_longer_record_of_the_teacher_is_cut_to_the_support() -> None:
    objective = aopd({})
    world, tokens, signal = random_step(objective, seed=11)
    spec = SignalSpec(sampled=True, teacher_topk=6)
    longer = signal_of(spec, world, torch.arange(14), tokens.ids)
    weight = torch.ones(len(tokens), dtype=torch.float64)
    (found, gradient), (other, other_gradient) = (
        score_once(objective, world.student_logits, tokens, s, weight, CLOCK)
        for s in (signal, longer)
    )
    assert torch.equal(found.value, other.value) and torch.equal(gradient, other_gradient)


@pytest.mark.parametrize("importance", [{}, *WEIGHTS], ids=name)
def test_an_infinite_forward_kl_does_not_reach_the_policy_gradients_tokens(
    importance: dict[str, Any],
) -> None:
    # The student masks the teacher's second id.
    logits = torch.tensor([[0.0, 1.0, -math.inf]], dtype=torch.float64)
    world = World(logits, torch.tensor([[0.4, 0.2, 0.4]], dtype=torch.float64).log(), CLOCK)
    objective = aopd(importance)
    tokens, signal = drawn_step(objective, world, [0])
    weight = torch.ones(1, dtype=torch.float64)
    loss, gradient = score_once(objective, logits, tokens, signal, weight, CLOCK)
    assert loss.surrogate.isfinite().all() and gradient.isfinite().all()


def test_metrics_are_the_share_of_the_forward_kl_and_the_log_ratio() -> None:
    objective = aopd({})
    world, tokens, signal = random_step(objective, seed=12)
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    loss, _ = score_once(
        objective, world.student_logits, tokens, signal, plan.weight.double(), CLOCK
    )
    log_p = torch.log_softmax(world.student_logits, -1)
    rows = [n for n in range(14) if not tokens.forced[n]]
    own = [log_p[n, tokens.ids[n]].item() for n in rows]
    teacher = [world.teacher_logp[n, tokens.ids[n]].item() for n in rows]
    below = sum(math.exp(b) <= math.exp(a) for a, b in zip(own, teacher, strict=True))
    assert 0 < below < len(rows)
    assert loss.metrics["forward_share"][0] == below
    assert all(int(count) == len(rows) for _, count in loss.metrics.values())
    ratio = math.fsum(a - b for a, b in zip(own, teacher, strict=True))
    assert loss.metrics["log_ratio"][0].item() == pytest.approx(ratio)
