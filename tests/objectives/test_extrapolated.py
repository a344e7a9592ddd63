"""ExOPD: beyond the teacher along its gain over a reference model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import (
    BEHAVIOURS,
    INVARIANCES,
    Invariance,
    assert_follows_what_it_declares,
    batch,
    label,
    run,
    sentence,
    value_and_gradient,
)
from pydantic import TypeAdapter

from oracles import shaped as oracle
from tandem.behaviours import Behaviour, FixedExponentBlend
from tandem.contract.enumeration import World, expected_gradient, make_world
from tandem.objectives import AnyObjective, Extrapolated, ReverseKL
from tandem.types import SignalSpec, TeacherSignal, TokenBatch

PLAIN = Extrapolated()
WEIGHTED = [
    Extrapolated(importance="exact"),
    Extrapolated(importance="truncated", importance_limit=1.3),
    Extrapolated(importance="clipped", importance_limit=0.2),
    Extrapolated(reward_scale=0.5, importance="exact"),
]
EVERY = [PLAIN, *WEIGHTED]


def reference_of(world: World) -> torch.Tensor:
    assert world.reference_logp is not None
    return world.reference_logp


def target_of(world: World, scale: float) -> torch.Tensor:
    """log Q [n, V], Q ∝ q^λ π_ref^(1−λ)."""
    mixed = scale * world.teacher_logp + (1 - scale) * reference_of(world)
    return torch.log_softmax(mixed, -1)


def test_value_and_gradient_match_the_numbers_worked_by_hand() -> None:
    # y has p = 1/2, q = 1/4, π_ref = 1/16: R = λ ln 4 − ln 8 = (2λ − 3) ln 2, −½ ln 2 at λ = 5/4.
    zero = torch.zeros(1, dtype=torch.int64)
    one = torch.ones(1, dtype=torch.float64)
    tokens = TokenBatch(zero, zero, zero, one, one, zero, zero, zero.bool())
    signal = TeacherSignal(sampled_logp=(one / 4).log(), reference_logp=(one / 16).log())
    logits = torch.zeros(1, 2, dtype=torch.float64)
    value, gradient, loss = run(PLAIN, (logits, tokens, signal))
    ln2 = math.log(2.0)
    assert value.item() == pytest.approx(0.5 * ln2, abs=1e-15)
    assert gradient[0].tolist() == pytest.approx([0.25 * ln2, -0.25 * ln2], abs=1e-15)
    assert loss.metrics["reward"][0].item() == pytest.approx(-0.5 * ln2)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.25, 2.0])
def test_value_and_gradient_match_the_naive_oracle(scale: float) -> None:
    world = make_world(1)
    objective = Extrapolated(reward_scale=scale)
    gradient, value = expected_gradient(objective, world.drawn_from, world)
    for n in range(len(gradient)):
        z, q = world.student_logits[n].tolist(), world.teacher_logp[n].exp().tolist()
        ref = reference_of(world)[n].exp().tolist()
        p = oracle.probabilities(z)
        reward = [
            oracle.extrapolated_reward(a, b, r, scale) for a, b, r in zip(p, q, ref, strict=True)
        ]
        expected = oracle.policy_gradient(z, reward)
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)
        # It is the reverse KL to the extrapolated target, whose normaliser is left out.
        kl, same = oracle.to_fixed_target(z, oracle.extrapolated_target(q, ref, scale))
        log_z = math.log(
            math.fsum(b**scale * r ** (1 - scale) for b, r in zip(q, ref, strict=True))
        )
        assert value[n].item() == pytest.approx(kl - log_z, abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(same, abs=1e-12)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
@pytest.mark.parametrize("objective", WEIGHTED, ids=label)
def test_it_follows_what_it_declares_under_every_behaviour(
    objective: Extrapolated, behaviour: Behaviour
) -> None:
    objective.check(behaviour, updates_per_rollout=4)
    assert_follows_what_it_declares(objective, behaviour)


def test_with_exact_weights_it_follows_the_same_whoever_drew_the_tokens() -> None:
    world = make_world(2)
    for law in (world.drawn_from, world.teacher_logp):
        found, _ = expected_gradient(WEIGHTED[0], law, world)
        p, target = torch.softmax(world.student_logits, -1), target_of(world, 1.25)
        ratio = p.log() - target
        torch.testing.assert_close(found, p * (ratio - (p * ratio).sum(-1, keepdim=True)))


def test_unweighted_tokens_of_another_law_are_refused_and_would_be_wrong() -> None:
    blend = FixedExponentBlend(exponent=0.4)
    with pytest.raises(ValueError) as caught:
        PLAIN.check(blend, updates_per_rollout=1)
    assert str(caught.value) == (
        "objective extrapolated scores the drawn token as if the student had drawn it, but "
        "behaviour fixed_exponent_blend draws from another law, which biases the gradient: set "
        "importance to exact, truncated or clipped."
    )
    world = make_world(3)
    wrong, _ = expected_gradient(PLAIN, world.teacher_logp, world)
    right, _ = expected_gradient(PLAIN, world.drawn_from, world)
    assert (wrong - right).abs().max() > 0.01


# ------------------------------------------------------------------ reductions and fixed points


@pytest.mark.parametrize("importance", ["none", "exact"])
def test_at_scale_1_it_is_k1_whatever_the_reference(importance: str) -> None:
    of = batch(4)
    fields = {"importance": importance}
    k1 = ReverseKL.model_validate({"support": "sampled"} | fields)
    same = Extrapolated.model_validate({"reward_scale": 1.0} | fields)
    torch.testing.assert_close(value_and_gradient(same, of), value_and_gradient(k1, of))


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.25])
def test_its_fixed_point_is_the_extrapolated_target(scale: float) -> None:
    world = make_world(5)
    objective = Extrapolated(reward_scale=scale)
    target = target_of(world, scale)
    gradient, _ = expected_gradient(objective, target, replace(world, student_logits=target))
    assert gradient.abs().max() < 1e-14
    q = world.teacher_logp
    at_teacher, _ = expected_gradient(objective, q, replace(world, student_logits=q))
    # With p = q the reward is (λ − 1)(log q − log π_ref).
    gain = (scale - 1) * (q - reference_of(world))
    mean = (q.exp() * gain).sum(-1, keepdim=True)
    torch.testing.assert_close(at_teacher, -q.exp() * (gain - mean))
    assert (at_teacher.abs().max() > 0.01) == (scale != 1.0)


def test_where_all_three_models_agree_nothing_moves() -> None:
    world = make_world(6)
    q = world.teacher_logp
    gradient, value = expected_gradient(
        PLAIN, q, replace(world, student_logits=q, reference_logp=q)
    )
    assert gradient.abs().max() < 1e-14 and value.abs().max() < 1e-14


# ------------------------------------------------------------------ masks and invariances


@pytest.mark.parametrize("objective", EVERY, ids=label)
@INVARIANCES
def test_what_may_not_matter_does_not(objective: Extrapolated, invariance: Invariance) -> None:
    invariance(objective)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.25])
@pytest.mark.parametrize("masked", [("teacher",), ("reference",), ("teacher", "reference")])
def test_an_id_that_teacher_or_reference_masks_is_infinite_with_a_finite_gradient(
    scale: float, masked: tuple[str, ...]
) -> None:
    z, tokens, signal = batch(7)
    assert signal.sampled_logp is not None and signal.reference_logp is not None
    for column in masked:
        chosen = signal.sampled_logp if column == "teacher" else signal.reference_logp
        chosen[0] = -torch.inf
    value, gradient, loss = run(Extrapolated(reward_scale=scale), (z, tokens, signal))
    assert value[0].item() == loss.surrogate[0].item() == math.inf
    assert value[1:].isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("everywhere", [False, True])
def test_an_id_that_the_student_masks_counts_nothing(everywhere: bool) -> None:
    z, tokens, signal = batch(8)
    assert signal.sampled_logp is not None and signal.reference_logp is not None
    z[0, tokens.ids[0]] = -torch.inf
    if everywhere:
        signal.sampled_logp[0] = signal.reference_logp[0] = -torch.inf
    value, gradient, loss = run(PLAIN, (z, tokens, signal))
    assert value[0].item() == 0.0 and (gradient[0] == 0).all()
    assert loss.metrics["reward"][0].item() == pytest.approx(-value.sum().item())
    assert value.isfinite().all() and gradient.isfinite().all()


# ------------------------------------------------------------------ what is read, told, refused


def test_what_is_read_and_told() -> None:
    assert PLAIN.needs() == SignalSpec(sampled=True, reference=True)
    assert PLAIN.reads_sampled()
    loss = run(WEIGHTED[0], batch(9))[2]
    assert set(loss.metrics) == {"reward", "importance_weight"}
    assert PLAIN.model_dump() == {
        "kind": "extrapolated",
        "importance": "none",
        "importance_limit": None,
        "baseline": "none",
        "reward_scale": 1.25,
    }
    for objective in EVERY:
        assert TypeAdapter(AnyObjective).validate_python(objective.model_dump()) == objective


def test_wrong_forms_are_refused_with_the_reason() -> None:
    for scale in (0.0, -1.0):
        assert sentence(Extrapolated, reward_scale=scale) == (
            f"reward_scale is {scale}, but at 0 the teacher plays no part and below it repels: "
            "give a number above 0 (1.25, for example)."
        )
    assert sentence(Extrapolated, baseline="expected") == (
        "baseline expected is refused: the reward's mean over the vocabulary needs the reference "
        "model's whole distribution, and only its log-prob of the drawn token is known: use "
        "baseline none."
    )
    assert sentence(Extrapolated, importance="truncated") == (
        "importance truncated needs importance_limit, the largest weight p/mu allowed: give a "
        "number of at least 1 (2, for example), or use importance exact."
    )
