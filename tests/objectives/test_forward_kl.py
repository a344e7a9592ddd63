"""Forward KL at every prefix, over the vocabulary and on the teacher's top-k."""

from __future__ import annotations

import math

import pytest
import torch
from objective_checks import (
    BEHAVIOURS,
    CLOCK,
    INVARIANCES,
    Invariance,
    K,
    V,
    assert_follows_what_it_declares,
    batch,
    label,
    run,
    sentence,
    value_and_gradient,
)
from pydantic import TypeAdapter
from torch import Tensor

from oracles import jsd as oracle
from tandem.behaviours import Behaviour
from tandem.contract.enumeration import expected_gradient, law_at, make_world
from tandem.objectives import AnyObjective, ForwardKL
from tandem.objectives.base import StepTokens
from tandem.types import SignalSpec, TeacherSignal, TokenBatch

LN2 = math.log(2.0)
FULL = ForwardKL()
ON_SUPPORT = [
    ForwardKL(support="teacher_topk", top_k=K, tail="none"),
    ForwardKL(support="teacher_topk", top_k=K, tail="renormalise"),
    ForwardKL(support="teacher_topk", top_k=K, tail="bucket"),
]
OVER_FORMS = pytest.mark.parametrize("objective", [FULL, *ON_SUPPORT], ids=label)
OVER_SUPPORTS = pytest.mark.parametrize("objective", ON_SUPPORT, ids=label)


def one_prefix(p: list[float], q: list[float], k: int) -> tuple[Tensor, TokenBatch, TeacherSignal]:
    log_q = torch.tensor([q], dtype=torch.float64).log()
    top = log_q.topk(k)
    zero = torch.zeros(1, dtype=torch.int64)
    tokens = TokenBatch(zero, zero, zero, zero.double(), zero.double(), zero, zero, zero.bool())
    signal = TeacherSignal(teacher_topk_ids=top.indices, teacher_topk_logp=top.values, logp=log_q)
    return torch.tensor([p], dtype=torch.float64).log(), tokens, signal


# p = (1/2, 1/4, 1/4), q = (1/4, 1/8, 5/8), teacher's two likeliest {2, 0}: m_T = 7/8.
@pytest.mark.parametrize(
    "objective, value, gradient",
    [
        (FULL, 0.625 * math.log(2.5) - 0.375 * LN2, [0.25, 0.125, -0.375]),
        (
            ForwardKL(support="teacher_topk", top_k=2),
            0.625 * math.log(2.5) - 0.25 * LN2,
            [7 / 16 - 1 / 4, 7 / 32, 7 / 32 - 5 / 8],
        ),
        (
            # q̃ = (2/7, 5/7), p̃ = (2/3, 1/3).
            ForwardKL(support="teacher_topk", top_k=2, tail="renormalise"),
            2 / 7 * math.log(3 / 7) + 5 / 7 * math.log(15 / 7),
            [2 / 3 - 2 / 7, 0.0, 1 / 3 - 5 / 7],
        ),
        (
            # One id is left outside, so its bucket is that id and the divergence the full one.
            ForwardKL(support="teacher_topk", top_k=2, tail="bucket"),
            0.625 * math.log(2.5) - 0.375 * LN2,
            [0.25, 0.125, -0.375],
        ),
    ],
    ids=["full", "none", "renormalise", "bucket"],
)
def test_value_and_gradient_match_the_numbers_worked_by_hand(
    objective: ForwardKL, value: float, gradient: list[float]
) -> None:
    found = run(objective, one_prefix([0.5, 0.25, 0.25], [0.25, 0.125, 0.625], 2))
    assert found[0].item() == pytest.approx(value, abs=1e-14)
    assert found[1][0].tolist() == pytest.approx(gradient, abs=1e-14)
    metrics = {name: total.item() for name, (total, _) in found[2].metrics.items()}
    if objective.support == "full":
        assert metrics == pytest.approx({"student_entropy": 1.5 * LN2})
    else:
        assert metrics == pytest.approx({"student_mass": 0.75, "teacher_mass": 0.875})


@OVER_FORMS
def test_value_and_gradient_match_the_naive_oracle(objective: ForwardKL) -> None:
    z, tokens, signal = batch(1)
    assert signal.logp is not None and signal.teacher_topk_ids is not None
    value, gradient = value_and_gradient(objective, (z, tokens, signal))
    for n in range(len(z)):
        ids = None if objective.support == "full" else signal.teacher_topk_ids[n].tolist()
        expected = oracle.summed(
            oracle.forward_kl,
            z[n].tolist(),
            signal.logp[n].exp().tolist(),
            ids,
            str(objective.tail),
        )
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
@OVER_FORMS
def test_it_follows_what_it_declares_under_every_behaviour(
    objective: ForwardKL, behaviour: Behaviour
) -> None:
    objective.check(behaviour, updates_per_rollout=4)
    assert_follows_what_it_declares(objective, behaviour)


def test_the_full_form_follows_p_less_q_whoever_drew_the_tokens() -> None:
    world = make_world(2)
    p, q = torch.softmax(world.student_logits, -1), world.teacher_logp.exp()
    for behaviour in BEHAVIOURS:
        found, value = expected_gradient(FULL, law_at(behaviour, world), world)
        torch.testing.assert_close(found, p - q)
        torch.testing.assert_close(value, (q * (q / p).log()).sum(-1))


# ------------------------------------------------------------------ reductions and fixed points


def test_the_truncated_gradient_is_the_teachers_mass_times_p_less_q_on_the_support() -> None:
    z, tokens, signal = batch(3)
    ids, log_q = signal.teacher_topk_ids, signal.teacher_topk_logp
    assert ids is not None and log_q is not None
    _, gradient = value_and_gradient(ON_SUPPORT[0], (z, tokens, signal))
    m = log_q.exp().sum(-1, keepdim=True)
    expected = (m * torch.softmax(z, -1)).scatter_add(-1, ids, -log_q.exp())
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().sum(-1).max() <= 2.0


@pytest.mark.parametrize("tail", ["none", "renormalise", "bucket"])
def test_a_support_of_every_id_is_the_whole_vocabulary(tail: str) -> None:
    world = make_world(4, vocabulary=V)
    objective = ForwardKL.model_validate({"support": "teacher_topk", "top_k": V, "tail": tail})
    law = law_at(BEHAVIOURS[0], world)
    found = expected_gradient(objective, law, world)
    torch.testing.assert_close(found, expected_gradient(FULL, law, world), atol=1e-9, rtol=0.0)


@OVER_FORMS
def test_where_the_models_agree_only_the_plain_truncation_is_not_at_rest(
    objective: ForwardKL,
) -> None:
    z, tokens, _ = batch(5)
    log_p = torch.log_softmax(z, -1)
    top = log_p.topk(K)
    signal = TeacherSignal(logp=log_p, teacher_topk_ids=top.indices, teacher_topk_logp=top.values)
    value, gradient = value_and_gradient(objective, (z, tokens, signal))
    assert value.abs().max() < 1e-14
    expected = torch.zeros_like(gradient)
    if objective.tail == "none" and objective.support != "full":
        p = log_p.exp()
        outside = p.scatter(-1, top.indices, 0.0).sum(-1, keepdim=True)
        # m_T p − q on the support: −(1 − m_T) p inside, m_T p outside.
        inside = torch.zeros_like(p).scatter(-1, top.indices, 1.0)
        expected = p * (1 - outside - inside)
        assert expected.abs().max() > 0.01
    torch.testing.assert_close(gradient, expected, atol=1e-14, rtol=0.0)


# ------------------------------------------------------------------ masks and invariances


@OVER_FORMS
@INVARIANCES
def test_what_may_not_matter_does_not(objective: ForwardKL, invariance: Invariance) -> None:
    invariance(objective)


@OVER_FORMS
def test_an_id_that_only_the_teacher_masks_costs_nothing(objective: ForwardKL) -> None:
    z, tokens, signal = batch(6)
    assert signal.logp is not None
    log_q = signal.logp.clone()
    log_q[:, 1:-2] = -torch.inf  # three ids are left; the support of two takes masked ones in
    log_q = torch.log_softmax(log_q, -1)
    top = log_q.topk(5)
    masked = TeacherSignal(logp=log_q, teacher_topk_ids=top.indices, teacher_topk_logp=top.values)
    wide = objective.model_copy(update={"top_k": 5 if objective.top_k else None})
    value, gradient = value_and_gradient(wide, (z, tokens, masked))
    assert value.isfinite().all() and gradient.isfinite().all()
    if wide.tail == "none":
        torch.testing.assert_close(gradient, torch.softmax(z, -1) - log_q.exp())


@OVER_FORMS
def test_an_id_that_only_the_student_masks_is_infinite_with_a_finite_gradient(
    objective: ForwardKL,
) -> None:
    z, tokens, signal = batch(7)
    assert signal.teacher_topk_ids is not None
    z = z.clone()
    z[0, signal.teacher_topk_ids[0, 0]] = -torch.inf
    value, gradient, loss = run(objective, (z, tokens, signal))
    assert value[0].item() == loss.surrogate[0].item() == math.inf
    assert value[1:].isfinite().all() and gradient.isfinite().all()


# ------------------------------------------------------------------ what is read, told, refused


def test_needs_asks_for_the_part_that_the_support_reads() -> None:
    assert FULL.needs() == SignalSpec(dense=True)
    assert ForwardKL(support="teacher_topk").needs() == SignalSpec(teacher_topk=64)
    assert not FULL.reads_sampled() and FULL.value_name == "forward_kl"


@OVER_SUPPORTS
def test_of_a_wider_record_it_reads_its_own_columns(objective: ForwardKL) -> None:
    z, tokens, signal = batch(8)
    assert signal.logp is not None
    top = signal.logp.topk(K + 2)
    wide = TeacherSignal(teacher_topk_ids=top.indices, teacher_topk_logp=top.values)
    torch.testing.assert_close(
        value_and_gradient(objective, (z, tokens, wide)),
        value_and_gradient(objective, (z, tokens, signal)),
    )


def test_forced_tokens_are_trained_on_like_any_other() -> None:
    _, tokens, signal = batch(9)
    tokens = tokens._map(lambda column: column)
    tokens.forced[:5] = True
    plan = FULL.plan(StepTokens(tokens, signal, CLOCK))
    assert plan.weight.tolist() == [1.0] * 12 and plan.denominator == 12


def test_what_is_left_out_is_filled_in_and_reads_back() -> None:
    given = ForwardKL(support="teacher_topk")
    assert given.model_dump() == {
        "kind": "forward_kl",
        "support": "teacher_topk",
        "top_k": 64,
        "tail": "none",
    }
    assert FULL.model_dump() == {
        "kind": "forward_kl",
        "support": "full",
        "top_k": None,
        "tail": "none",
    }
    for objective in (given, FULL):
        assert TypeAdapter(AnyObjective).validate_python(objective.model_dump()) == objective


def test_wrong_forms_are_refused_with_the_reason() -> None:
    assert sentence(ForwardKL, top_k=16) == (
        "top_k is 16, but support full has no k: remove top_k, or use support teacher_topk."
    )
    for tail in ("renormalise", "bucket"):
        assert sentence(ForwardKL, tail=tail) == (
            f"tail {tail} is refused with support full, which leaves no tail: use tail none."
        )
    assert sentence(ForwardKL, support="teacher_topk", top_k=0) == (
        "top_k is 0, but a support holds at least 1 token: give 1 or more, say 64."
    )
    assert sentence(ForwardKL, support="teacher_topk", top_k=1, tail="renormalise") == (
        "tail renormalise is refused with top_k 1: a loss renormalised for both models on a single "
        "token is identically 0: give top_k 2 or more, or use tail bucket."
    )
