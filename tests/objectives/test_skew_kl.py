"""The skew KLs of DistiLLM, forward and reverse."""

from __future__ import annotations

import math
from functools import partial
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

from oracles import jsd as oracle
from tandem.behaviours import Behaviour
from tandem.objectives import AnyObjective, ForwardKL, ReverseKL, SkewKL
from tandem.types import SignalSpec, TeacherSignal, TokenBatch

LN2, LN3 = math.log(2.0), math.log(3.0)


def skew(direction: str, **fields: object) -> SkewKL:
    return SkewKL.model_validate({"direction": direction} | fields)


def on_support(direction: str, tail: str, alpha: float = 0.1) -> SkewKL:
    return skew(direction, support="teacher_topk", top_k=K, tail=tail, alpha=alpha)


SUPPORTED = [
    on_support("forward", "none"),
    *(
        on_support(direction, tail)
        for direction, tail in product(("forward", "reverse"), ("renormalise", "bucket"))
    ),
]
EVERY = [
    skew("forward"),
    skew("reverse"),
    skew("forward", alpha=0.6),
    skew("reverse", alpha=0.6),
    skew("forward", alpha=0.0),
    skew("reverse", alpha=0.0),
    *SUPPORTED,
]
OVER_FORMS = pytest.mark.parametrize("objective", EVERY, ids=label)


def truth_of(objective: SkewKL) -> oracle.Divergence:
    forward = objective.direction == "forward"
    return partial(oracle.skew_forward if forward else oracle.skew_reverse, alpha=objective.alpha)


@pytest.mark.parametrize(
    "direction, slope", [("forward", 3 / 32), ("reverse", 3 / 16 * (LN3 - 0.5))]
)
@pytest.mark.parametrize("support", ["full", "teacher_topk"])
def test_value_and_gradient_match_the_numbers_worked_by_hand(
    direction: str, slope: float, support: str
) -> None:
    # p = (3/4, 1/4), q = (1/4, 3/4), α = 1/2: both mixtures are even, both values
    # ¾ ln ³⁄₂ − ¼ ln 2. Forward: g = −½ q/m = (−¼, −¾); reverse: ln p/m − ½ p/m.
    log_q = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    top = log_q.topk(2)
    zero = torch.zeros(1, dtype=torch.int64)
    tokens = TokenBatch(zero, zero, zero, zero.double(), zero.double(), zero, zero, zero.bool())
    signal = TeacherSignal(logp=log_q, teacher_topk_ids=top.indices, teacher_topk_logp=top.values)
    logits = torch.tensor([[LN3, 0.0]], dtype=torch.float64)
    fields = {} if support == "full" else {"support": support, "top_k": 2}
    found = value_and_gradient(skew(direction, alpha=0.5, **fields), (logits, tokens, signal))
    assert found[0].item() == pytest.approx(0.75 * LN3 - LN2, abs=1e-14)
    assert found[1][0].tolist() == pytest.approx([slope, -slope], abs=1e-14)


@OVER_FORMS
def test_value_and_gradient_match_the_naive_oracle(objective: SkewKL) -> None:
    z, tokens, signal = batch(1)
    assert signal.logp is not None and signal.teacher_topk_ids is not None
    value, gradient = value_and_gradient(objective, (z, tokens, signal))
    for n in range(len(z)):
        ids = None if objective.support == "full" else signal.teacher_topk_ids[n].tolist()
        expected = oracle.summed(
            truth_of(objective),
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
    objective: SkewKL, behaviour: Behaviour
) -> None:
    objective.check(behaviour, updates_per_rollout=4)
    assert_follows_what_it_declares(objective, behaviour)


# ------------------------------------------------------------------ reductions and fixed points


@pytest.mark.parametrize("tail", [None, "renormalise", "bucket", "none"])
def test_without_skew_it_is_the_forward_and_the_reverse_kl(tail: str | None) -> None:
    of = batch(2)
    fields: dict[str, object] = {"support": "full"}
    if tail is not None:
        fields = {"support": "teacher_topk", "top_k": K, "tail": tail}
    torch.testing.assert_close(
        value_and_gradient(skew("forward", alpha=0.0, **fields), of),
        value_and_gradient(ForwardKL.model_validate(fields), of),
    )
    if tail != "none":
        torch.testing.assert_close(
            value_and_gradient(skew("reverse", alpha=0.0, **fields), of),
            value_and_gradient(ReverseKL.model_validate(fields), of),
        )


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_skew_is_continuous_at_0_and_bounded_by_minus_log_alpha(direction: str) -> None:
    of = batch(3)
    torch.testing.assert_close(
        value_and_gradient(skew(direction, alpha=1e-9), of),
        value_and_gradient(skew(direction, alpha=0.0), of),
        atol=1e-6,
        rtol=0.0,
    )
    z, tokens, _ = of
    far = TeacherSignal(logp=torch.log_softmax(-40.0 * z, -1))
    value, _ = value_and_gradient(skew(direction, alpha=0.1), (10.0 * z, tokens, far))
    assert 2.0 < value.max().item() <= -math.log(0.1)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("tail", ["renormalise", "bucket"])
def test_a_support_of_every_id_is_the_whole_vocabulary(direction: str, tail: str) -> None:
    z, tokens, signal = batch(4)
    assert signal.logp is not None
    top = signal.logp.topk(V)
    of = (z, tokens, TeacherSignal(None, None, None, top.indices, top.values, logp=signal.logp))
    torch.testing.assert_close(
        value_and_gradient(skew(direction, support="teacher_topk", top_k=V, tail=tail), of),
        value_and_gradient(skew(direction), of),
        atol=1e-9,
        rtol=0.0,
    )


@OVER_FORMS
def test_where_the_models_agree_only_the_plain_truncation_is_not_at_rest(
    objective: SkewKL,
) -> None:
    z, tokens, _ = batch(5)
    log_p = torch.log_softmax(z, -1)
    top = log_p.topk(K)
    signal = TeacherSignal(None, None, None, top.indices, top.values, logp=log_p)
    value, gradient = value_and_gradient(objective, (z, tokens, signal))
    assert value.abs().max() < 1e-14
    expected = torch.zeros_like(gradient)
    if objective.tail == "none" and objective.support != "full":
        p, m = log_p.exp(), top.values.exp().sum(-1, keepdim=True)
        drift = (m * p).scatter_add(-1, top.indices, -top.values.exp())
        expected = (1 - objective.alpha) * drift
        assert expected.abs().max() > 0.01
    torch.testing.assert_close(gradient, expected, atol=1e-14, rtol=0.0)


# ------------------------------------------------------------------ masks and invariances


@OVER_FORMS
@INVARIANCES
def test_what_may_not_matter_does_not(objective: SkewKL, invariance: Invariance) -> None:
    invariance(objective)


@pytest.mark.parametrize("model", ["student", "teacher"])
@pytest.mark.parametrize("objective", [o for o in EVERY if o.alpha > 0.0], ids=label)
def test_an_id_that_one_model_masks_leaves_everything_finite(objective: SkewKL, model: str) -> None:
    z, tokens, signal = batch(6)
    assert signal.logp is not None
    z, log_q = z.clone(), signal.logp.clone()
    (z if model == "student" else log_q)[:, 2:5] = -torch.inf
    log_q = torch.log_softmax(log_q, -1)
    top = log_q.topk(6)
    masked = TeacherSignal(None, None, None, top.indices, top.values, logp=log_q)
    wide = objective.model_copy(update={"top_k": 6 if objective.top_k else None})
    value, gradient, loss = run(wide, (z, tokens, masked))
    assert value.isfinite().all() and loss.surrogate.isfinite().all()
    for n in range(len(z)):
        ids = None if objective.support == "full" else top.indices[n].tolist()
        expected = oracle.summed(
            truth_of(wide), z[n].tolist(), log_q[n].exp().tolist(), ids, str(wide.tail)
        )
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


# ------------------------------------------------------------------ what is read, told, refused


def test_needs_asks_for_the_part_that_the_support_reads() -> None:
    assert skew("forward").needs() == SignalSpec(dense=True)
    assert skew("reverse", support="teacher_topk").needs() == SignalSpec(teacher_topk=64)
    assert SkewKL.value_name == "skew_kl"


def test_the_skew_is_the_papers_and_the_direction_has_to_be_said() -> None:
    assert skew("reverse").model_dump() == {
        "kind": "skew_kl",
        "support": "full",
        "top_k": None,
        "tail": "none",
        "direction": "reverse",
        "alpha": 0.1,
    }
    assert skew("forward", support="teacher_topk").tail == "renormalise"
    assert sentence(SkewKL) == "Field required"
    for objective in EVERY:
        assert TypeAdapter(AnyObjective).validate_python(objective.model_dump()) == objective


def test_wrong_forms_are_refused_with_the_reason() -> None:
    for alpha in (-0.1, 1.0):
        assert sentence(SkewKL, direction="forward", alpha=alpha) == (
            f"alpha is {alpha}, but a skew lies in [0, 1), and at 1 a model would be held against "
            "itself: give 0.1, for example."
        )
    refused = sentence(SkewKL, direction="reverse", support="teacher_topk", tail="none")
    assert refused == (
        "tail none is refused with direction reverse: the truncated sum drives the student's mass "
        "off the support, also where both models agree: use tail renormalise or bucket."
    )
