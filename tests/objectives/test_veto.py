"""Veto: the target, its schedule, and the two ways to follow it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import (
    BEHAVIOURS,
    CLOCK,
    INVARIANCES,
    Batch,
    Invariance,
    assert_follows_what_it_declares,
    batch,
    batch_of,
    label,
    run,
    sentence,
    value_and_gradient,
)
from pydantic import TypeAdapter

from oracles import shaped as oracle
from tandem.behaviours import Behaviour, Teacher
from tandem.contract.enumeration import expected_gradient, law_at, make_world
from tandem.objectives import AnyObjective, ForwardKL, ReverseKL, Veto
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch

LN2 = math.log(2.0)
REVERSE = Veto(start_beta=0.4)
FORWARD = Veto(start_beta=0.4, direction="forward")
SAMPLED = Veto(start_beta=0.4, support="sampled")
BASELINE = Veto(start_beta=0.4, support="sampled", baseline="expected")
WEIGHTED = [
    Veto(start_beta=0.4, support="sampled", importance="exact"),
    Veto(start_beta=0.4, support="sampled", importance="exact", baseline="expected"),
    Veto(start_beta=0.4, support="sampled", importance="truncated", importance_limit=1.3),
    Veto(start_beta=0.4, support="sampled", importance="clipped", importance_limit=0.2),
]
EVERY = [REVERSE, FORWARD, SAMPLED, BASELINE, *WEIGHTED]
# At CLOCK, step 3 of 20, with no horizon of its own.
BETA = 0.4 * 17 / 20


def two_ids(p: tuple[float, float], q: tuple[float, float]) -> Batch:
    log_p = torch.tensor([p], dtype=torch.float64).log()
    log_q = torch.tensor([q], dtype=torch.float64).log()
    zero = torch.zeros(1, dtype=torch.int64)
    tokens = TokenBatch(zero, zero, zero, log_p[:, 0], log_p[:, 0], zero, zero, zero.bool())
    return log_p, tokens, TeacherSignal(sampled_logp=log_q[:, 0], logp=log_q)


def test_value_and_gradient_match_the_numbers_worked_by_hand() -> None:
    # p = (1/5, 4/5), q = (4/5, 1/5), β = 1/2: q √p is (4, 2) of 6, so Q = (2/3, 1/3).
    # Z = 6/√125. Id 0 is drawn: its reward is ln ⁴⁄₅ − ½ ln ¹⁄₅ = ½ ln ¹⁶⁄₅.
    of, at = two_ids((0.2, 0.8), (0.8, 0.2)), Clock(0, 10)
    reverse = value_and_gradient(Veto(start_beta=0.5), of, clock=at)
    ratio = (math.log(0.3), math.log(2.4))
    kl = 0.2 * ratio[0] + 0.8 * ratio[1]
    assert reverse[0].item() == pytest.approx(kl, abs=1e-14)
    slope = 0.16 * (ratio[0] - ratio[1])
    assert reverse[1][0].tolist() == pytest.approx([slope, -slope], abs=1e-14)
    forward = value_and_gradient(Veto(start_beta=0.5, direction="forward"), of, clock=at)
    assert forward[0].item() == pytest.approx(-2 / 3 * ratio[0] + math.log(1 / 2.4) / 3, abs=1e-14)
    assert forward[1][0].tolist() == pytest.approx([0.2 - 2 / 3, 0.8 - 1 / 3], abs=1e-14)
    drawn = value_and_gradient(Veto(start_beta=0.5, support="sampled"), of, clock=at)
    reward = 0.5 * math.log(3.2)
    assert drawn[0].item() == pytest.approx(-reward, abs=1e-14)
    assert drawn[1][0].tolist() == pytest.approx([-0.8 * reward, 0.8 * reward], abs=1e-14)


@pytest.mark.parametrize("objective", [REVERSE, FORWARD], ids=label)
def test_value_and_gradient_match_the_naive_oracle(objective: Veto) -> None:
    z, tokens, signal = batch(1)
    assert signal.logp is not None
    value, gradient = value_and_gradient(objective, (z, tokens, signal))
    for n in range(len(z)):
        row, q = z[n].tolist(), signal.logp[n].exp().tolist()
        target = oracle.veto_target(oracle.probabilities(row), q, BETA)
        forward = objective.direction == "forward"
        expected = oracle.to_fixed_target(row, target, forward=forward)
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize("objective", [SAMPLED, BASELINE, WEIGHTED[0]], ids=label)
def test_drawn_tokens_follow_the_reverse_kl_to_the_target_without_its_normaliser(
    objective: Veto,
) -> None:
    world = make_world(2)
    law = world.teacher_logp if objective.importance == "exact" else world.drawn_from
    gradient, value = expected_gradient(objective, law, world)
    whole, divergence = expected_gradient(REVERSE, law, world)
    torch.testing.assert_close(gradient, whole)
    for n in range(len(gradient)):
        row, q = world.student_logits[n].tolist(), world.teacher_logp[n].exp().tolist()
        p = oracle.probabilities(row)
        reward = [oracle.veto_reward(a, b, BETA) for a, b in zip(p, q, strict=True)]
        expected = oracle.policy_gradient(row, reward)
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)
        log_z = math.log(math.fsum(b * a**BETA for a, b in zip(p, q, strict=True)))
        assert value[n].item() == pytest.approx(divergence[n].item() - log_z, abs=1e-12)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
@pytest.mark.parametrize("objective", [REVERSE, FORWARD, *WEIGHTED], ids=label)
def test_it_follows_what_it_declares_under_every_behaviour(
    objective: Veto, behaviour: Behaviour
) -> None:
    objective.check(behaviour, updates_per_rollout=4)
    assert_follows_what_it_declares(objective, behaviour)


@pytest.mark.parametrize("objective", [SAMPLED, BASELINE], ids=label)
def test_unweighted_tokens_follow_it_only_where_the_student_drew_them(objective: Veto) -> None:
    world = make_world(11)
    law = law_at(BEHAVIOURS[0], world)
    found, _ = expected_gradient(objective, law, world)
    torch.testing.assert_close(found, expected_gradient(REVERSE, law, world)[0])
    with pytest.raises(ValueError) as caught:
        objective.check(Teacher(), updates_per_rollout=1)
    assert str(caught.value) == (
        "objective veto scores the drawn token as if the student had drawn it, but behaviour "
        "teacher draws from another law, which biases the gradient: set importance to exact, "
        "truncated or clipped, or use support full."
    )


# ------------------------------------------------------------------ schedule, reductions


def test_the_exponent_falls_in_a_straight_line_over_the_run_or_the_horizon() -> None:
    run_long, short = Veto(start_beta=0.8), Veto(start_beta=0.8, horizon=4)
    assert [run_long.beta(Clock(k, 8)) for k in (0, 2, 4, 8)] == pytest.approx([0.8, 0.6, 0.4, 0])
    assert [short.beta(Clock(k, 8)) for k in (0, 1, 4, 7)] == pytest.approx([0.8, 0.6, 0, 0])
    of = batch(3)
    metrics = run(short, of, clock=Clock(1, 8))[2].metrics
    assert metrics["veto_beta"][0].item() == pytest.approx(12 * 0.6)
    assert metrics["veto_beta"][1] == 12


@pytest.mark.parametrize(
    "fields, base",
    [
        ({}, ReverseKL(support="full")),
        ({"direction": "forward"}, ForwardKL()),
        ({"support": "sampled"}, ReverseKL(support="sampled")),
        (
            {"support": "sampled", "importance": "exact", "baseline": "expected"},
            ReverseKL(support="sampled", importance="exact", baseline="expected"),
        ),
    ],
    ids=str,
)
def test_at_exponent_0_it_is_the_base_loss(fields: dict[str, object], base: ReverseKL) -> None:
    of = batch(4)
    expected = value_and_gradient(base, of)
    never = Veto.model_validate({"start_beta": 0.0} | fields)
    over = Veto.model_validate({"start_beta": 0.6, "horizon": 3} | fields)
    assert never.beta(CLOCK) == over.beta(CLOCK) == 0.0
    torch.testing.assert_close(value_and_gradient(never, of), expected)
    torch.testing.assert_close(value_and_gradient(over, of), expected)


@pytest.mark.parametrize("objective", [REVERSE, FORWARD, SAMPLED], ids=label)
def test_its_fixed_point_is_a_sharper_teacher_and_not_the_teacher(objective: Veto) -> None:
    world = make_world(5)
    sharp = torch.log_softmax(world.teacher_logp / (1 - BETA), -1)
    there = replace(world, student_logits=sharp)
    gradient, value = expected_gradient(objective, sharp, there)
    assert gradient.abs().max() < 1e-14
    if objective.support == "full":
        assert value.abs().max() < 1e-14
    equal = replace(world, student_logits=world.teacher_logp)
    gradient, _ = expected_gradient(objective, world.teacher_logp, equal)
    # At p = q the reverse reward is β log p, and the forward target p^(1+β).
    p = world.teacher_logp.exp()
    own = BETA * world.teacher_logp
    if objective.direction == "reverse":
        expected = -p * (own - (p * own).sum(-1, keepdim=True))
    else:
        expected = p - torch.softmax((1 + BETA) * world.teacher_logp, -1)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 0.01


# ------------------------------------------------------------------ masks and invariances


@pytest.mark.parametrize("objective", EVERY, ids=label)
@INVARIANCES
def test_what_may_not_matter_does_not(objective: Veto, invariance: Invariance) -> None:
    invariance(objective)


@pytest.mark.parametrize("objective", [REVERSE, FORWARD, SAMPLED, BASELINE], ids=label)
def test_an_id_that_only_the_teacher_masks_is_forbidden_or_left_out(objective: Veto) -> None:
    world = make_world(6, prefixes=12)
    log_q = world.teacher_logp.clone()
    log_q[:, 2] = -torch.inf
    z, tokens, signal = batch_of(replace(world, teacher_logp=torch.log_softmax(log_q, -1)))
    assert signal.sampled_logp is not None
    value, gradient, loss = run(objective, (z, tokens, signal))
    assert gradient.isfinite().all()
    if objective.direction == "forward":
        assert value.isfinite().all()
    elif objective.support == "full":
        assert (value == math.inf).all() and (loss.surrogate == math.inf).all()
    else:
        forbidden = tokens.ids == 2
        assert forbidden.any() and not forbidden.all()
        assert ((value == math.inf) == forbidden).all()


@pytest.mark.parametrize("objective", [REVERSE, FORWARD], ids=label)
def test_an_id_that_only_the_student_masks_has_no_part_in_the_target(objective: Veto) -> None:
    z, tokens, signal = batch(7)
    assert signal.logp is not None
    masked = z.clone()
    masked[:, 2] = -torch.inf
    keep = [v for v in range(z.shape[1]) if v != 2]
    inner = TeacherSignal(logp=signal.logp[:, keep])
    value, gradient = value_and_gradient(objective, (masked, tokens, signal))
    expected = value_and_gradient(objective, (z[:, keep], tokens, inner))
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(gradient[:, keep], expected[1])
    assert (gradient[:, 2] == 0).all()


# ------------------------------------------------------------------ what is read, told, refused


def test_what_is_read_and_told() -> None:
    assert REVERSE.needs() == FORWARD.needs() == SignalSpec(dense=True)
    assert SAMPLED.needs() == SignalSpec(sampled=True)
    assert BASELINE.needs() == SignalSpec(sampled=True, dense=True)
    assert not REVERSE.reads_sampled() and SAMPLED.reads_sampled()
    assert set(run(REVERSE, batch(8))[2].metrics) == {"student_entropy", "veto_beta"}
    assert set(run(WEIGHTED[0], batch(8))[2].metrics) == {
        "reward",
        "importance_weight",
        "veto_beta",
    }
    dumped = REVERSE.model_dump()
    assert (dumped["direction"], dumped["support"], dumped["horizon"]) == ("reverse", "full", None)
    for objective in EVERY:
        assert TypeAdapter(AnyObjective).validate_python(objective.model_dump()) == objective


def test_wrong_forms_are_refused_with_the_reason() -> None:
    assert sentence(Veto) == "Field required"
    for beta in (-0.1, 1.0):
        assert sentence(Veto, start_beta=beta) == (
            f"start_beta is {beta}, but from 1 on the student's own probability leaves the loss or "
            "is rewarded: give a number in [0, 1), 0.4 for example."
        )
    assert sentence(Veto, start_beta=0.4, horizon=0) == (
        "horizon is 0, but the exponent falls over at least 1 optimiser step: leave it out for the "
        "whole run, or set start_beta to 0 for none."
    )
    assert sentence(Veto, start_beta=0.4, direction="forward", support="sampled") == (
        "direction forward is refused with support sampled: KL(Q‖p) is a mean over tokens of the "
        "target, and none is drawn from it: use support full, or direction reverse."
    )
    assert sentence(Veto, start_beta=0.4, importance="exact") == (
        "importance exact is refused with support full: that loss never reads the sampled token, "
        "so a weight p/mu would bias it: use importance none."
    )
