"""BPDG: blocks whose probabilities have moved since the rollout count less.

The truth is tests/oracles, in Python floats. Shapes: V vocabulary, N tokens.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from drift_gate_forms import INNER, OVER_INNER, gated_by, label
from gated_steps import (
    BEHAVIOURS,
    CLOCK,
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
from tandem.behaviours import Behaviour
from tandem.contract.checks import check_objective, failures
from tandem.contract.enumeration import (
    declared_gradient,
    expected_gradient,
    make_world,
    score_once,
)
from tandem.objectives import (
    DriftGate,
    EntropyAware,
    Objective,
    ReverseKL,
)
from tandem.objectives.base import StepTokens
from tandem.types import Author, Clock, TokenBatch


def moved_by(drift: list[float], *, position: list[int], sequence: list[int]) -> TokenBatch:
    """Tokens whose log-probability fell by `drift` since the rollout."""
    n = len(drift)
    zero = torch.zeros(n, dtype=torch.int64)
    rollout = torch.linspace(-2.0, -0.5, n, dtype=torch.float64)
    return TokenBatch(
        ids=zero,
        sequence=torch.tensor(sequence),
        position=torch.tensor(position),
        behaviour_logp=torch.zeros(n, dtype=torch.float64),
        student_logp=rollout,
        author=zero + int(Author.BLEND),
        policy_version=zero,
        forced=zero.bool(),
        current_logp=rollout - torch.tensor(drift, dtype=torch.float64),
    )


# ------------------------------------------------------------------ by hand, by oracle


def test_two_blocks_worked_by_hand() -> None:
    # The drifts of a block are averaged before the absolute value: 0.3, and −0.1.
    tokens = moved_by([0.2, 0.4, -0.1], position=[0, 1, 2], sequence=[5, 5, 5])
    plan = gated_by(ReverseKL(), tau=10.0).plan(StepTokens(tokens, nothing()[1], CLOCK))
    a, b = math.exp(-3.0), math.exp(-1.0)
    mean = (2 * a + b) / 3
    assert plan.weight.tolist() == pytest.approx([a / mean, a / mean, b / mean], abs=1e-14)
    assert plan.denominator == 3.0


def test_drifts_of_opposite_sign_cancel_within_a_block_and_not_across_responses() -> None:
    within = moved_by([0.5, -0.5, 0.0, 0.0], position=[0, 1, 0, 1], sequence=[1, 1, 2, 2])
    across = moved_by([0.5, 0.0, -0.5, 0.0], position=[0, 1, 0, 1], sequence=[1, 1, 2, 2])
    gate = gated_by(ReverseKL(), tau=1.0)
    assert gate.plan(StepTokens(within, nothing()[1], CLOCK)).weight.tolist() == [1.0] * 4
    assert gate.plan(StepTokens(across, nothing()[1], CLOCK)).weight.tolist() == [1.0] * 4
    far = moved_by([0.5, 0.5, 0.0, 0.0], position=[0, 1, 0, 1], sequence=[1, 1, 2, 2])
    low, high = gate.plan(StepTokens(far, nothing()[1], CLOCK)).weight[[0, 2]].tolist()
    assert low / high == pytest.approx(math.exp(-0.5))


def test_a_block_has_64_tokens_by_position() -> None:
    drift = [1.0] * 64 + [0.0] * 6
    tokens = moved_by(drift, position=list(range(70)), sequence=[3] * 70)
    gate = DriftGate(objective=ReverseKL(), tau=1.0)
    weight = gate.plan(StepTokens(tokens, nothing()[1], CLOCK)).weight
    assert gate.block == 64
    assert (weight[:64] == weight[0]).all() and (weight[64:] == weight[-1]).all()
    assert (weight[0] / weight[-1]).item() == pytest.approx(math.exp(-1.0))


@OVER_INNER
def test_the_plan_is_the_inner_one_times_the_oracles_gate(inner: Objective) -> None:
    objective = gated_by(inner)
    _, tokens, signal = random_step(objective, seed=1)
    step = StepTokens(tokens, signal, CLOCK)
    plan, base = objective.plan(step), inner.plan(step)
    assert tokens.current_logp is not None
    gates = gated.drift_gates(
        tokens.student_logp.tolist(),
        tokens.current_logp.tolist(),
        tokens.sequence.tolist(),
        tokens.position.tolist(),
        (base.weight != 0).tolist(),
        tau=2.0,
        block=2,
    )
    expected = [w * g for w, g in zip(base.weight.tolist(), gates, strict=True)]
    assert plan.weight.tolist() == pytest.approx(expected, abs=1e-12)
    assert plan.denominator == base.denominator
    trained = base.weight != 0
    ratio = (plan.weight / base.weight)[trained]
    assert ratio.mean().item() == pytest.approx(1.0, abs=1e-12) and ratio.std() > 0.05


def test_the_gate_compares_students_and_never_the_behaviour() -> None:
    objective = gated_by(ReverseKL(top_k=3))
    _, tokens, signal = random_step(objective, seed=2)
    other = replace(tokens, behaviour_logp=tokens.behaviour_logp - 1.0)
    plans = [objective.plan(StepTokens(t, signal, CLOCK)).weight for t in (tokens, other)]
    assert torch.equal(plans[0], plans[1])


def test_a_drift_that_underflows_every_gate_still_leaves_their_ratios() -> None:
    tokens = moved_by([5.0, 5.0, 5.1, 5.1], position=[0, 1, 2, 3], sequence=[1] * 4)
    plan = gated_by(ReverseKL(), tau=1000.0).plan(StepTokens(tokens, nothing()[1], CLOCK))
    assert plan.weight.tolist() == pytest.approx([2.0, 2.0, 0.0, 0.0], abs=1e-12)


def test_an_id_that_both_students_mask_has_not_drifted() -> None:
    tokens = moved_by([0.0, 0.5], position=[0, 1], sequence=[1, 2])
    never = torch.tensor([-math.inf, -1.0], dtype=torch.float64)
    assert tokens.current_logp is not None
    now = torch.tensor([-math.inf, -1.5], dtype=torch.float64)
    masked = replace(tokens, student_logp=never, current_logp=now)
    plan = gated_by(ReverseKL(), tau=1.0).plan(StepTokens(masked, nothing()[1], CLOCK))
    assert (plan.weight[1] / plan.weight[0]).item() == pytest.approx(math.exp(-0.5))


# ------------------------------------------------------------------ by enumeration


@pytest.mark.parametrize("stale", [False, True], ids=["fresh", "stale"])
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=name)
@OVER_INNER
def test_the_expected_gradient_is_the_declared_one(
    inner: Objective, behaviour: Behaviour, stale: bool
) -> None:
    objective = gated_by(inner)
    for step in (3, 15):
        world = replace(make_world(3, stale=stale), clock=Clock(step, 20))
        law = law_of(behaviour, world)
        found, _ = expected_gradient(objective, law, world)
        torch.testing.assert_close(found, declared_gradient(objective, law, world))


@pytest.mark.parametrize("inner", INNER[1:3], ids=label)
def test_single_tokens_follow_the_inner_gradient_token_by_token_times_the_gate(
    inner: Objective,
) -> None:
    """Sums by hand over the tokens of a stale world under its own rollout's law."""
    world = make_world(4, stale=True)
    n, v = world.student_logits.shape
    mu, p = world.drawn_from, torch.log_softmax(world.student_logits, -1)
    gate = torch.exp(-2.0 * (mu - p).abs())
    gate = gate / gate.mean()
    expected = torch.zeros(n, v, dtype=torch.float64)
    for y in range(v):
        # All prefixes drew y; the inner weights are 1.
        tokens, signal = drawn_step(inner, world, [y] * n)
        weight = mu.exp()[:, y] * gate[:, y]
        _, gradient = score_once(inner, world.student_logits, tokens, signal, weight, CLOCK)
        expected += gradient
    found, _ = expected_gradient(gated_by(inner), mu, world)
    torch.testing.assert_close(found, expected)


# ------------------------------------------------------------------ reductions, fixed points


@pytest.mark.parametrize("tau", [2.0, 0.0])
@OVER_INNER
def test_a_student_that_has_not_moved_and_tau_0_leave_the_inner_objective(
    inner: Objective, tau: float
) -> None:
    objective = gated_by(inner, tau=tau)
    world, tokens, signal = random_step(objective, seed=5)
    if tau:
        tokens = replace(tokens, current_logp=tokens.student_logp)
    step = StepTokens(tokens, signal, CLOCK)
    plan, base = objective.plan(step), inner.plan(step)
    assert torch.equal(plan.weight.float(), base.weight) and plan.denominator == base.denominator
    (found, gradient), (expected, expected_gradient_) = (
        score_once(o, world.student_logits, tokens, signal, plan.weight.double(), CLOCK)
        for o in (objective, inner)
    )
    assert torch.equal(found.surrogate, expected.surrogate)
    assert torch.equal(found.value, expected.value) and torch.equal(gradient, expected_gradient_)


@pytest.mark.parametrize(
    "inner", [o for o in INNER if o.kind in ("reverse_kl", "relaxed")], ids=label
)
def test_where_teacher_and_student_agree_it_is_at_rest_as_the_inner_objective_is(
    inner: Objective,
) -> None:
    world = same_models(6)
    older = make_world(6, stale=True).drawn_from
    gradient, _ = expected_gradient(gated_by(inner), older, replace(world, rollout_logp=older))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-14)


def test_where_they_agree_the_truncated_forward_kl_is_scaled_by_the_mean_gate() -> None:
    world = same_models(7)
    older = make_world(7, stale=True).drawn_from
    world = replace(world, rollout_logp=older)
    inner = EntropyAware(support="full", teacher_top_k=3, threshold=0.0)
    found, _ = expected_gradient(gated_by(inner), older, world)
    p = torch.softmax(world.student_logits, -1)
    gate = torch.exp(-2.0 * (older - p.log()).abs())
    scale = (older.exp() * gate / gate.mean()).sum(-1, keepdim=True)
    top = p.topk(3)
    inside = torch.zeros_like(p).scatter(-1, top.indices, top.values)
    expected = scale * (top.values.sum(-1, keepdim=True) * p - inside)
    torch.testing.assert_close(found, expected)


# ------------------------------------------------------------------ invariances


@pytest.mark.parametrize("inner", [o for o in INNER if o.reads_sampled()], ids=label)
def test_the_plan_is_that_of_the_whole_step(inner: Objective) -> None:
    assert_plan_is_that_of_the_whole_step(gated_by(inner))


@pytest.mark.parametrize("inner", [o for o in INNER if o.reads_sampled()], ids=label)
def test_given_tokens_of_weight_0_do_not_drift(inner: Objective) -> None:
    if inner.kind != "trust_region":  # whose guidance trains on them
        assert_given_tokens_change_nothing(gated_by(inner))


def test_given_tokens_that_are_trained_on_do() -> None:
    objective = gated_by(ReverseKL(support="full"))
    _, tokens, signal = random_step(objective, seed=8)
    free = replace(tokens, forced=torch.zeros_like(tokens.forced))
    plans = [objective.plan(StepTokens(t, signal, CLOCK)).weight for t in (tokens, free)]
    assert torch.equal(plans[0], plans[1])


@OVER_INNER
def test_an_empty_rank_takes_part_in_every_gather(inner: Objective) -> None:
    objective = gated_by(inner)
    _, tokens, signal = random_step(objective, seed=9)
    whole = objective.plan(StepTokens(tokens, signal, CLOCK))
    plans = plan_on_ranks(objective, [nothing(), (tokens, signal)])
    torch.testing.assert_close(plans[1].weight, whole.weight)
    assert len(plans[0].weight) == 0 and plans[0].denominator == 0.0
    for plan in plan_on_ranks(objective, [nothing(), nothing()]):
        assert len(plan.weight) == 0 and plan.denominator == 0.0


@OVER_INNER
def test_the_contract_holds(inner: Objective) -> None:
    assert not list(failures(check_objective(gated_by(inner))))
