"""TOP-D: the log-ratio to a target that stays near the student."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import (
    BEHAVIOURS,
    CLOCK,
    INVARIANCES,
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
from tandem.contract.enumeration import expected_gradient, make_world
from tandem.objectives import AnyObjective, GeneralizedJSD, Proximal, ReverseKL
from tandem.types import SignalSpec, TeacherSignal, TokenBatch

SAMPLED = Proximal(alpha=0.4)
BASELINE = Proximal(alpha=0.4, baseline="expected")
FULL = Proximal(alpha=0.4, support="full")
WEIGHTED = [
    Proximal(alpha=0.4, importance="exact"),
    Proximal(alpha=0.4, importance="exact", baseline="expected"),
    Proximal(alpha=0.4, importance="truncated", importance_limit=1.3),
    Proximal(alpha=0.4, importance="clipped", importance_limit=0.2),
    Proximal(alpha=1.0, importance="exact"),
]
EVERY = [SAMPLED, BASELINE, FULL, *WEIGHTED]


def test_value_and_gradient_match_the_numbers_worked_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/4, 3/4), α = 1/2: m is even and the rewards are −ln ³⁄₂ and ln 2.
    # Id 0 is drawn, ∇log p_0 = (1/4, −1/4).
    zero = torch.zeros(1, dtype=torch.int64)
    log_q = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    tokens = TokenBatch(zero, zero, zero, zero.double(), zero.double(), zero, zero, zero.bool())
    of = (log_q.flip(-1), tokens, TeacherSignal(sampled_logp=log_q[:, 0], logp=log_q))
    value, gradient, loss = run(Proximal(alpha=0.5), of)
    assert value.item() == pytest.approx(math.log(1.5), abs=1e-15)
    slope = math.log(1.5) / 4
    assert gradient[0].tolist() == pytest.approx([slope, -slope], abs=1e-15)
    assert loss.metrics["reward"][0].item() == pytest.approx(-math.log(1.5))
    whole = value_and_gradient(Proximal(alpha=0.5, support="full"), of)
    kl = 0.75 * math.log(1.5) - 0.25 * math.log(2.0)
    assert whole[0].item() == pytest.approx(kl, abs=1e-15)
    slope = 3 / 16 * math.log(3.0)
    assert whole[1][0].tolist() == pytest.approx([slope, -slope], abs=1e-15)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("support", ["sampled", "full"])
def test_value_and_gradient_match_the_naive_oracle(alpha: float, support: str) -> None:
    world = make_world(1)
    objective = Proximal.model_validate({"alpha": alpha, "support": support})
    gradient, value = expected_gradient(objective, world.drawn_from, world)
    for n in range(len(gradient)):
        z, q = world.student_logits[n].tolist(), world.teacher_logp[n].exp().tolist()
        p = oracle.probabilities(z)
        reward = [oracle.proximal_reward(a, b, alpha) for a, b in zip(p, q, strict=True)]
        expected = oracle.policy_gradient(z, reward)
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)
        near = [alpha * b + (1 - alpha) * a for a, b in zip(p, q, strict=True)]
        kl, same = oracle.to_fixed_target(z, near)
        assert value[n].item() == pytest.approx(kl, abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(same, abs=1e-12)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
@pytest.mark.parametrize("objective", [FULL, *WEIGHTED], ids=label)
def test_it_follows_what_it_declares_under_every_behaviour(
    objective: Proximal, behaviour: Behaviour
) -> None:
    objective.check(behaviour, updates_per_rollout=4)
    assert_follows_what_it_declares(objective, behaviour)


@pytest.mark.parametrize("objective", [SAMPLED, BASELINE], ids=label)
def test_unweighted_tokens_follow_it_only_where_the_student_drew_them(objective: Proximal) -> None:
    world = make_world(2)
    whole, _ = expected_gradient(FULL, world.drawn_from, world)
    found, _ = expected_gradient(objective, world.drawn_from, world)
    torch.testing.assert_close(found, whole)
    wrong, _ = expected_gradient(objective, world.teacher_logp, world)
    assert (wrong - whole).abs().max() > 0.01
    with pytest.raises(ValueError) as caught:
        objective.check(Teacher(), updates_per_rollout=1)
    assert str(caught.value) == (
        "objective proximal scores the drawn token as if the student had drawn it, but behaviour "
        "teacher draws from another law, which biases the gradient: set importance to exact, "
        "truncated or clipped, or use support full."
    )


# ------------------------------------------------------------------ reductions and fixed points


@pytest.mark.parametrize("importance", ["none", "exact"])
@pytest.mark.parametrize("baseline", ["none", "expected"])
def test_with_the_whole_teacher_it_is_k1(importance: str, baseline: str) -> None:
    of = batch(3)
    fields = {"importance": importance, "baseline": baseline}
    k1 = ReverseKL.model_validate({"support": "sampled"} | fields)
    same = Proximal.model_validate({"alpha": 1.0} | fields)
    torch.testing.assert_close(value_and_gradient(same, of), value_and_gradient(k1, of))


def test_with_the_whole_teacher_and_vocabulary_it_is_the_reverse_kl() -> None:
    of = batch(3)
    torch.testing.assert_close(
        value_and_gradient(Proximal(alpha=1.0, support="full"), of),
        value_and_gradient(ReverseKL(support="full"), of),
    )


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_its_gradient_is_that_of_the_jsd_with_beta_alpha_over_the_students_share(
    alpha: float,
) -> None:
    of = batch(4)
    _, gradient = value_and_gradient(Proximal(alpha=alpha, support="full"), of)
    _, jsd = value_and_gradient(GeneralizedJSD(beta=alpha), of)
    torch.testing.assert_close(gradient * (1 - alpha), jsd)


@pytest.mark.parametrize("objective", EVERY, ids=label)
def test_where_the_models_agree_value_and_gradient_are_0(objective: Proximal) -> None:
    world = make_world(5)
    same = replace(world, student_logits=world.teacher_logp)
    gradient, value = expected_gradient(objective, world.teacher_logp, same)
    assert gradient.abs().max() < 1e-14 and value.abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_reward_is_bounded_below_and_keeps_its_digits_far_out(dtype: torch.dtype) -> None:
    log_p = torch.tensor([-1e-3, -80.0, -3.0, -0.1, -200.0], dtype=dtype)
    log_q = torch.tensor([-200.0, -1e-3, -3.0, -torch.inf, -1.0], dtype=dtype)
    reward = SAMPLED.reward(log_p=log_p, log_q=log_q, clock=CLOCK)
    floor = math.log(0.6)
    expected = [floor, 79.999 + math.log(0.4), 0.0, floor, 199.0 + math.log(0.4)]
    assert reward.tolist() == pytest.approx(expected, abs=1e-6 if dtype == torch.float64 else 2e-5)
    assert reward[2].abs() < 1e-7


# ------------------------------------------------------------------ masks and invariances


@pytest.mark.parametrize("objective", EVERY, ids=label)
@INVARIANCES
def test_what_may_not_matter_does_not(objective: Proximal, invariance: Invariance) -> None:
    invariance(objective)


@pytest.mark.parametrize("objective", [SAMPLED, BASELINE, FULL], ids=label)
def test_an_id_that_only_the_teacher_masks_costs_at_most_the_bound(objective: Proximal) -> None:
    world = make_world(6, prefixes=12)
    log_q = world.teacher_logp.clone()
    log_q[:, 2] = -torch.inf
    z, tokens, signal = batch_of(replace(world, teacher_logp=torch.log_softmax(log_q, -1)))
    value, gradient, loss = run(objective, (z, tokens, signal))
    assert gradient.isfinite().all() and loss.surrogate.isfinite().all()
    drawn = tokens.ids == 2
    assert drawn.any()
    if objective.support == "sampled":
        assert value[drawn].tolist() == pytest.approx([-math.log(0.6)] * int(drawn.sum()))
    assert value.max() <= -math.log(0.6) + 1e-12


def test_an_id_that_only_the_teacher_masks_is_infinite_without_a_share_of_the_student() -> None:
    z, tokens, signal = batch(7)
    assert signal.sampled_logp is not None
    signal.sampled_logp[0] = -torch.inf
    value, gradient, loss = run(Proximal(alpha=1.0), (z, tokens, signal))
    assert value[0].item() == loss.surrogate[0].item() == math.inf
    assert value[1:].isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("objective", [SAMPLED, BASELINE, FULL, WEIGHTED[-1]], ids=label)
@pytest.mark.parametrize("everywhere", [False, True])
def test_an_id_that_the_student_masks_counts_nothing(objective: Proximal, everywhere: bool) -> None:
    world = make_world(8, prefixes=12)
    z, log_q = world.student_logits.clone(), world.teacher_logp.clone()
    ids = torch.full((12,), 2)
    z[:, 2] = -torch.inf
    if everywhere:
        log_q[:, 2] = -torch.inf
    masked = replace(
        world,
        student_logits=z,
        teacher_logp=torch.log_softmax(log_q, -1),
        rollout_logp=world.drawn_from,
    )
    value, gradient, loss = run(objective, batch_of(masked, ids=ids))
    assert value.isfinite().all() and loss.surrogate.isfinite().all()
    assert gradient.isfinite().all() and (gradient[:, 2] == 0).all()
    if objective.support == "sampled":
        assert (value == 0).all() and (gradient == 0).all()


# ------------------------------------------------------------------ what is read, told, refused


def test_what_is_read_and_told() -> None:
    assert SAMPLED.needs() == SignalSpec(sampled=True)
    assert BASELINE.needs() == SignalSpec(sampled=True, dense=True)
    assert FULL.needs() == SignalSpec(dense=True)
    assert SAMPLED.reads_sampled() and not FULL.reads_sampled()
    assert set(run(WEIGHTED[0], batch(9))[2].metrics) == {"reward", "importance_weight"}
    for objective in EVERY:
        assert TypeAdapter(AnyObjective).validate_python(objective.model_dump()) == objective


def test_wrong_forms_are_refused_with_the_reason() -> None:
    assert sentence(Proximal) == "Field required"
    for alpha in (0.0, 1.1):
        assert sentence(Proximal, alpha=alpha) == (
            f"alpha is {alpha}, but the teacher's share in the target lies in (0, 1], and at 0 "
            "nothing is learnt: give 0.5, for example."
        )
    assert sentence(Proximal, alpha=0.5, support="full", baseline="expected") == (
        "baseline expected is refused with support full: that loss sums over tokens and has no "
        "sampling variance to take off: use baseline none."
    )
