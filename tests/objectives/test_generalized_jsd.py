"""The generalised JSD of GKD: its two conventions, its ends, and what a support leaves of it."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from objective_checks import (
    BEHAVIOURS,
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
from tandem.objectives import AnyObjective, ForwardKL, GeneralizedJSD, ReverseKL
from tandem.types import SignalSpec, TeacherSignal, TokenBatch

LN2, LN3 = math.log(2.0), math.log(3.0)


def jsd(**fields: object) -> GeneralizedJSD:
    return GeneralizedJSD.model_validate(fields)


FULL = [
    GeneralizedJSD(),
    GeneralizedJSD(beta=0.1),
    GeneralizedJSD(beta=0.9, ends="scaled"),
    GeneralizedJSD(beta=0.0),
    GeneralizedJSD(beta=1.0, ends="scaled"),
]
ON_SUPPORT = [
    jsd(support=support, top_k=K, tail=tail, beta=beta, ends=ends)
    for support, tail, (beta, ends) in product(
        ("teacher_topk", "student_topk"),
        ("none", "renormalise", "bucket"),
        ((0.5, "special"), (0.2, "scaled")),
    )
]
AT_ENDS = [
    jsd(support="teacher_topk", top_k=K, tail=tail, beta=beta)
    for tail, beta in product(("renormalise", "bucket"), (0.0, 1.0))
]
EVERY = [*FULL, *ON_SUPPORT, *AT_ENDS]
OVER_FORMS = pytest.mark.parametrize("objective", EVERY, ids=label)


def truth_of(objective: GeneralizedJSD) -> oracle.Divergence:
    if objective.beta == 0.0:
        return oracle.forward_kl
    if objective.beta == 1.0:
        return oracle.kl
    scale = 1.0
    if objective.ends == "scaled":
        scale = objective.beta * (1 - objective.beta)
    return lambda p, q: oracle.jsd(p, q, objective.beta) / scale


def ids_of(objective: GeneralizedJSD, signal: TeacherSignal) -> Tensor | None:
    if objective.support == "full":
        return None
    teacher = objective.support == "teacher_topk"
    return signal.teacher_topk_ids if teacher else signal.student_topk_ids


@pytest.mark.parametrize(
    "objective, value, slope",
    [
        # p = (3/4, 1/4), q = (1/4, 3/4), M = (1/2, 1/2): both KLs are ¾ ln ³⁄₂ − ¼ ln 2.
        (GeneralizedJSD(), 0.75 * LN3 - LN2, 3 / 32 * LN3),
        (GeneralizedJSD(ends="scaled"), 3 * LN3 - 4 * LN2, 3 / 8 * LN3),
        # KL(q‖p) = KL(p‖q) = ½ ln 3; gradients p − q, and p (log p − log q − KL).
        (GeneralizedJSD(beta=0.0), 0.5 * LN3, 0.5),
        (GeneralizedJSD(beta=1.0), 0.5 * LN3, 3 / 8 * LN3),
        # Two ids are all there is: nothing to condition on.
        (GeneralizedJSD(support="teacher_topk", top_k=2), 0.75 * LN3 - LN2, 3 / 32 * LN3),
    ],
    ids=label,
)
def test_value_and_gradient_match_the_numbers_worked_by_hand(
    objective: GeneralizedJSD, value: float, slope: float
) -> None:
    log_q = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    top = log_q.topk(2)
    zero = torch.zeros(1, dtype=torch.int64)
    tokens = TokenBatch(zero, zero, zero, zero.double(), zero.double(), zero, zero, zero.bool())
    signal = TeacherSignal(logp=log_q, teacher_topk_ids=top.indices, teacher_topk_logp=top.values)
    logits = torch.tensor([[LN3, 0.0]], dtype=torch.float64)
    found = value_and_gradient(objective, (logits, tokens, signal))
    assert found[0].item() == pytest.approx(value, abs=1e-14)
    assert found[1][0].tolist() == pytest.approx([slope, -slope], abs=1e-14)


@OVER_FORMS
def test_value_and_gradient_match_the_naive_oracle(objective: GeneralizedJSD) -> None:
    z, tokens, signal = batch(1)
    assert signal.logp is not None
    support = ids_of(objective, signal)
    value, gradient = value_and_gradient(objective, (z, tokens, signal))
    for n in range(len(z)):
        expected = oracle.summed(
            truth_of(objective),
            z[n].tolist(),
            signal.logp[n].exp().tolist(),
            None if support is None else support[n].tolist(),
            str(objective.tail),
        )
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
@OVER_FORMS
def test_it_follows_what_it_declares_under_every_behaviour(
    objective: GeneralizedJSD, behaviour: Behaviour
) -> None:
    objective.check(behaviour, updates_per_rollout=4)
    assert_follows_what_it_declares(objective, behaviour)


# ------------------------------------------------------------------ reductions and fixed points


@pytest.mark.parametrize("ends", ["special", "scaled"])
@pytest.mark.parametrize("tail", [None, "renormalise", "bucket"])
def test_at_its_ends_it_is_the_forward_and_the_reverse_kl(ends: str, tail: str | None) -> None:
    fields = {} if tail is None else {"support": "teacher_topk", "top_k": K, "tail": tail}
    of = batch(2)
    forward = ForwardKL.model_validate({"support": "full"} | fields)
    reverse = ReverseKL.model_validate({"support": "full"} | fields)
    torch.testing.assert_close(
        value_and_gradient(jsd(beta=0.0, ends=ends, **fields), of),
        value_and_gradient(forward, of),
    )
    torch.testing.assert_close(
        value_and_gradient(jsd(beta=1.0, ends=ends, **fields), of),
        value_and_gradient(reverse, of),
    )


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_scaled_form_is_continuous_at_its_ends_and_the_published_one_is_not(end: float) -> None:
    of = batch(3)
    near = abs(end - 1e-7)
    at = value_and_gradient(GeneralizedJSD(beta=end), of)
    scaled = value_and_gradient(GeneralizedJSD(beta=near, ends="scaled"), of)
    torch.testing.assert_close(scaled, at, atol=1e-5, rtol=0.0)
    special = value_and_gradient(GeneralizedJSD(beta=near), of)
    assert special[0].abs().max() < 1e-5 and at[0].min() > 1e-3


@pytest.mark.parametrize("tail", ["none", "renormalise", "bucket"])
def test_a_support_of_every_id_is_the_whole_vocabulary(tail: str) -> None:
    z, tokens, signal = batch(4)
    assert signal.logp is not None
    top = signal.logp.topk(V)
    signal = TeacherSignal(
        logp=signal.logp, teacher_topk_ids=top.indices, teacher_topk_logp=top.values
    )
    objective = jsd(support="teacher_topk", top_k=V, tail=tail)
    torch.testing.assert_close(
        value_and_gradient(objective, (z, tokens, signal)),
        value_and_gradient(GeneralizedJSD(), (z, tokens, signal)),
        atol=1e-9,
        rtol=0.0,
    )


@OVER_FORMS
def test_value_and_gradient_are_0_where_the_models_agree_whatever_the_tail(
    objective: GeneralizedJSD,
) -> None:
    z, tokens, _ = batch(5)
    log_p = torch.log_softmax(z, -1)
    top = log_p.topk(K)
    both = {"student_topk": top, "teacher_topk": top}
    signal = TeacherSignal(
        logp=log_p,
        **{f"{name}_ids": t.indices for name, t in both.items()},
        **{f"{name}_logp": t.values for name, t in both.items()},
    )
    value, gradient = value_and_gradient(objective, (z, tokens, signal))
    assert value.abs().max() < 1e-13 and gradient.abs().max() < 1e-13


def test_a_truncated_sum_is_never_negative_and_never_above_the_buckets_or_the_whole() -> None:
    of = batch(6)
    for support, beta in product(("teacher_topk", "student_topk"), (0.1, 0.5, 0.9)):
        forms = (jsd(support=support, top_k=K, tail=t, beta=beta) for t in ("none", "bucket"))
        none, bucket = (value_and_gradient(form, of)[0] for form in forms)
        whole = value_and_gradient(GeneralizedJSD(beta=beta), of)[0]
        assert (none >= 0).all() and (none < bucket).all() and (bucket < whole).all()


# ------------------------------------------------------------------ masks and invariances


@OVER_FORMS
@INVARIANCES
def test_what_may_not_matter_does_not(objective: GeneralizedJSD, invariance: Invariance) -> None:
    invariance(objective)


@pytest.mark.parametrize("model", ["student", "teacher"])
@pytest.mark.parametrize("objective", [o for o in EVERY if o.beta not in (0.0, 1.0)], ids=label)
def test_an_id_that_one_model_masks_leaves_everything_finite(
    objective: GeneralizedJSD, model: str
) -> None:
    z, tokens, signal = batch(7)
    assert signal.logp is not None
    z, log_q = z.clone(), signal.logp.clone()
    (z if model == "student" else log_q)[:, 2:5] = -torch.inf
    log_q = torch.log_softmax(log_q, -1)
    top, own = log_q.topk(6), z.topk(6)
    masked = TeacherSignal(
        logp=log_q,
        teacher_topk_ids=top.indices,
        teacher_topk_logp=top.values,
        student_topk_ids=own.indices,
        student_topk_logp=log_q.gather(-1, own.indices),
    )
    wide = objective.model_copy(update={"top_k": 6 if objective.top_k else None})
    value, gradient, loss = run(wide, (z, tokens, masked))
    assert value.isfinite().all() and loss.surrogate.isfinite().all()
    assert gradient.isfinite().all()
    support = ids_of(wide, masked)
    for n in range(len(z)):
        expected = oracle.summed(
            truth_of(wide),
            z[n].tolist(),
            log_q[n].exp().tolist(),
            None if support is None else support[n].tolist(),
            str(wide.tail),
        )
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


# ------------------------------------------------------------------ what is read, told, refused


def test_needs_asks_for_the_part_that_the_support_reads() -> None:
    assert GeneralizedJSD().needs() == SignalSpec(dense=True)
    assert GeneralizedJSD(support="teacher_topk").needs() == SignalSpec(teacher_topk=64)
    assert GeneralizedJSD(support="student_topk", top_k=5).needs() == SignalSpec(student_topk=5)
    assert GeneralizedJSD.value_name == "jsd"


def test_the_default_is_the_papers_and_what_is_left_out_is_filled_in() -> None:
    assert GeneralizedJSD().model_dump() == {
        "kind": "generalized_jsd",
        "support": "full",
        "top_k": None,
        "tail": "none",
        "beta": 0.5,
        "ends": "special",
    }
    given = GeneralizedJSD(support="student_topk")
    assert (given.top_k, given.tail) == (64, "renormalise")
    for objective in EVERY:
        assert TypeAdapter(AnyObjective).validate_python(objective.model_dump()) == objective


def test_wrong_forms_are_refused_with_the_reason() -> None:
    for beta in (-0.1, 1.5):
        assert sentence(GeneralizedJSD, beta=beta) == (
            f"beta is {beta}, but the teacher's weight in a mixture lies between 0 (forward KL) "
            "and 1 (reverse KL): give a number in [0, 1], 0.5 for example."
        )
    for beta, name in ((0.0, "forward_kl"), (1.0, "reverse_kl")):
        refused = sentence(GeneralizedJSD, beta=beta, support="student_topk", tail="none")
        assert refused == (
            f"tail none is refused with beta {beta:g}: the truncated {name} there moves the "
            "student's mass also where both models agree, which the JSD's terms do not: use tail "
            f"renormalise or bucket, or objective.kind={name}, which says so."
        )
    assert sentence(GeneralizedJSD, top_k=4) == (
        "top_k is 4, but support full has no k: remove top_k, or use support teacher_topk."
    )
    assert sentence(GeneralizedJSD, support="student_topk", top_k=1) == (
        "tail renormalise is refused with top_k 1: a loss renormalised for both models on a single "
        "token is identically 0: give top_k 2 or more, or use tail bucket."
    )
