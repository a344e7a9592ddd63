"""EOPD: the forward KL that is added where the teacher is unsure.

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
    drawn_step,
    law_of,
    name,
    random_step,
    same_models,
)
from gated_steps import assert_given_tokens_change_nothing as assert_given_change_nothing
from torch import Tensor

from oracles import gated, objectives
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
from tandem.core.divergences import entropy
from tandem.objectives import EntropyAware, ReverseKL
from tandem.objectives.base import StepTokens
from tandem.types import SignalSpec

K = 3
# Some prefixes of the small worlds lie above, some below.
MIDDLE = 1.2
FORMS: list[dict[str, Any]] = [
    {"top_k": K},
    {"support": "full"},
    {"support": "teacher_topk", "top_k": 2, "tail": "none"},
    {"support": "sampled"},
    {"support": "sampled", "baseline": "expected"},
    {"support": "sampled", "realisation": "k2"},
]
# The forms whose own gradient vanishes where the models agree.
AT_REST = [fields for fields in FORMS if fields.get("support") != "teacher_topk"]
OVER_FORMS = pytest.mark.parametrize("fields", FORMS, ids=name)


def eopd(fields: dict[str, Any], **more: Any) -> EntropyAware:
    return EntropyAware(**({"threshold": MIDDLE, "teacher_top_k": K} | fields | more))


def unsure(world: World) -> Tensor:
    found = entropy(world.teacher_logp) > MIDDLE
    assert found.any() and not found.all(), "the world has no two sides of the threshold"
    return found


def one_prefix(**fields: Any) -> tuple[float, list[float]]:
    """Value and gradient where p = (½, ¼, ¼) and q = (¼, ½, ¼), with the full reverse KL."""
    objective = EntropyAware(support="full", teacher_top_k=2, **fields)
    world = World(P.log(), Q.log(), CLOCK)
    tokens, signal = drawn_step(objective, world, [0])
    weight = torch.ones(1, dtype=torch.float64)
    loss, gradient = score_once(objective, P.log(), tokens, signal, weight, CLOCK)
    return loss.value.item(), gradient[0].tolist()


# ------------------------------------------------------------------ by hand, by oracle


def test_one_prefix_worked_by_hand() -> None:
    # KL(p‖q) = ½ log 2 − ¼ log 2; on the teacher's top two, q (log q − log p) sums to ¼ log 2.
    reverse = [0.375 * LN2, -0.3125 * LN2, -0.0625 * LN2]
    # m_T p − q 1[K] with m_T = ¾.
    forward = [0.125, -0.3125, 0.1875]
    value, gradient = one_prefix(alpha=2.0)
    assert value == pytest.approx(0.25 * LN2 + 2.0 * 0.25 * LN2, abs=1e-14)
    expected = [a + 2.0 * b for a, b in zip(reverse, forward, strict=True)]
    assert gradient == pytest.approx(expected, abs=1e-14)


def test_the_forward_kl_is_added_strictly_above_the_threshold_and_nowhere_else() -> None:
    h = 1.5 * LN2  # H(¼, ½, ¼)
    assert one_prefix(threshold=h - 1e-9)[0] == pytest.approx(0.5 * LN2)
    assert one_prefix(threshold=h + 1e-9)[0] == pytest.approx(0.25 * LN2)


@OVER_FORMS
def test_value_and_gradient_are_the_base_loss_plus_the_oracles_forward_kl(
    fields: dict[str, Any],
) -> None:
    world = make_world(3)
    unsure(world)
    law = world.drawn_from
    base_gradient, base_value = expected_gradient(ReverseKL(**fields), law, world)
    gradient, value = expected_gradient(eopd(fields, alpha=0.7), law, world)
    z, q = world.student_logits.tolist(), world.teacher_logp.tolist()
    for n in range(len(z)):
        base = (base_value[n].item(), base_gradient[n].tolist())
        forward = gated.forward_kl_where_unsure(z[n], q[n], threshold=MIDDLE, top_k=K)
        expected = gated.plus(base, forward, 0.7)
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


def test_the_full_form_is_the_oracle_of_both_terms() -> None:
    world = make_world(4)
    gradient, value = expected_gradient(eopd({"support": "full"}), world.drawn_from, world)
    z, q = world.student_logits.tolist(), world.teacher_logp.tolist()
    for n in range(len(z)):
        forward = gated.forward_kl_where_unsure(z[n], q[n], threshold=MIDDLE, top_k=K)
        expected = gated.plus(objectives.full(z[n], q[n]), forward)
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


# ------------------------------------------------------------------ by enumeration


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=name)
@OVER_FORMS
def test_the_expected_gradient_is_the_declared_one(
    fields: dict[str, Any], behaviour: Behaviour, stale: bool
) -> None:
    world = make_world(5, stale=stale)
    unsure(world)
    law = law_of(behaviour, world)
    weights: list[dict[str, Any]] = WEIGHTS if fields.get("support") == "sampled" else [{}]
    for importance in weights:
        objective = eopd(fields | importance)
        found, _ = expected_gradient(objective, law, world)
        torch.testing.assert_close(found, declared_gradient(objective, law, world))


def test_no_importance_weight_multiplies_the_forward_kl() -> None:
    world = make_world(6)
    law = law_of(Teacher(), world)
    fields: dict[str, Any] = {"support": "sampled", "importance": "exact"}
    whole, _ = expected_gradient(eopd(fields), law, world)
    base, _ = expected_gradient(ReverseKL(**fields), law, world)
    z, q = world.student_logits.tolist(), world.teacher_logp.tolist()
    for n in range(len(z)):
        _, forward = gated.forward_kl_where_unsure(z[n], q[n], threshold=MIDDLE, top_k=K)
        assert (whole - base)[n].tolist() == pytest.approx(forward, abs=1e-7)  # mu is fp32


# ------------------------------------------------------------------ reductions, fixed points


@pytest.mark.parametrize("silent", [{"threshold": 1e30}, {"alpha": 0.0}], ids=name)
@OVER_FORMS
def test_a_threshold_out_of_reach_and_alpha_0_leave_the_base_loss(
    fields: dict[str, Any], silent: dict[str, Any]
) -> None:
    world, tokens, signal = random_step(eopd(fields), seed=7)
    base, objective = ReverseKL(**fields), eopd(fields, **silent)
    step = StepTokens(tokens, signal, CLOCK)
    plan = base.plan(step)
    assert torch.equal(objective.plan(step).weight, plan.weight)
    assert objective.plan(step).denominator == plan.denominator
    results = [
        score_once(o, world.student_logits, tokens, signal, plan.weight.double(), CLOCK)
        for o in (base, objective)
    ]
    (expected, expected_gradient_), (found, gradient) = results
    assert torch.equal(found.value, expected.value)
    assert torch.equal(found.surrogate, expected.surrogate)
    torch.testing.assert_close(gradient, expected_gradient_, rtol=0.0, atol=1e-15)


@pytest.mark.parametrize("fields", AT_REST, ids=name)
def test_where_the_models_agree_the_gradient_is_that_of_the_truncated_forward_kl(
    fields: dict[str, Any],
) -> None:
    world = same_models(3)
    gradient, value = expected_gradient(eopd(fields, alpha=3.0), world.drawn_from, world)
    p = world.drawn_from.exp()
    top = p.topk(K)
    inside = torch.zeros_like(p).scatter(-1, top.indices, top.values)
    expected = 3.0 * unsure(world)[:, None] * (top.values.sum(-1, keepdim=True) * p - inside)
    torch.testing.assert_close(gradient, expected, rtol=0.0, atol=1e-14)
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0.0, atol=1e-14)


# ------------------------------------------------------------------ invariances


@OVER_FORMS
def test_the_contract_holds(fields: dict[str, Any]) -> None:
    assert not list(failures(check_objective(eopd(fields))))


def test_both_terms_are_divided_by_all_trained_tokens() -> None:
    _, tokens, signal = random_step(eopd({"top_k": K}), seed=9)
    step = StepTokens(tokens, signal, CLOCK)
    assert eopd({"top_k": K}).plan(step).denominator == len(tokens)
    plan = eopd({"support": "sampled"}).plan(step)
    assert plan.denominator == plan.weight.sum() == (~tokens.forced).sum()


def test_given_tokens_count_in_neither_term_where_the_base_loss_reads_the_drawn_one() -> None:
    assert_given_change_nothing(eopd({"support": "sampled"}))


def test_a_longer_record_of_the_teacher_is_cut_to_each_terms_own_support() -> None:
    fields: dict[str, Any] = {"support": "teacher_topk", "top_k": 2}
    objective = eopd(fields, threshold=0.0)
    assert objective.needs() == SignalSpec(teacher_topk=3, teacher_entropy=True)
    world, tokens, signal = random_step(objective, seed=10)
    rows = torch.arange(len(tokens))
    spec = SignalSpec(teacher_topk=6, teacher_entropy=True)
    longer = signal_of(spec, world, rows, tokens.ids)
    weight = torch.ones(len(tokens), dtype=torch.float64)
    for asked, record in ((objective, longer), (ReverseKL(**fields), signal)):
        own = signal_of(asked.needs(), world, rows, tokens.ids)
        expected, gradient = score_once(asked, world.student_logits, tokens, own, weight, CLOCK)
        found, other = score_once(asked, world.student_logits, tokens, record, weight, CLOCK)
        torch.testing.assert_close(found.value, expected.value)
        torch.testing.assert_close(other, gradient)


def test_a_token_below_the_threshold_is_not_touched_by_an_infinite_forward_kl() -> None:
    objective = EntropyAware(support="sampled", threshold=1.3, teacher_top_k=2)
    logits = torch.tensor([[0.0, 1.0, -math.inf]], dtype=torch.float64)
    world = World(logits, torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64).log(), CLOCK)
    tokens, signal = drawn_step(objective, world, [0])
    weight = torch.ones(1, dtype=torch.float64)
    loss, gradient = score_once(objective, logits, tokens, signal, weight, CLOCK)
    assert loss.surrogate.isfinite().all() and gradient.isfinite().all()


def test_metrics_are_the_share_of_unsure_tokens_and_the_forward_kl_over_those() -> None:
    objective = eopd({"top_k": K})
    world, tokens, signal = random_step(objective, seed=11)
    weight = torch.ones(len(tokens), dtype=torch.float64)
    weight[:5] = 0.0
    loss, _ = score_once(objective, world.student_logits, tokens, signal, weight, CLOCK)
    z, q = world.student_logits.tolist(), world.teacher_logp.tolist()
    rows = [n for n in range(5, len(z)) if gated.entropy(q[n]) > MIDDLE]
    assert rows and len(rows) < len(z) - 5
    total, count = loss.metrics["unsure_share"]
    assert (total.item(), int(count)) == (len(rows), len(z) - 5)
    total, count = loss.metrics["forward_kl"]
    values = [gated.forward_kl_where_unsure(z[n], q[n], threshold=MIDDLE, top_k=K)[0] for n in rows]
    assert int(count) == len(rows) and total.item() == pytest.approx(math.fsum(values))
    assert {"student_mass", "teacher_mass"} < set(loss.metrics)
