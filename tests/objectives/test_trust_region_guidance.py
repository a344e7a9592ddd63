"""Tokens that a request gave: guidance of TrustRegion, and what other losses make of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from trust_region_forms import CLOCK, EVERY_FORM, K, batch, name, run

from oracles import trust_region as oracle
from tandem.contract.enumeration import score_once
from tandem.objectives import ReverseKL, TrustRegion
from tandem.objectives.base import StepTokens
from tandem.types import Author, TeacherSignal, TokenBatch

FORCED = torch.arange(12) % 4 < 2  # each response of four opens with two given tokens
OTHERS = (torch.arange(12) >= 8) & FORCED  # those of the last response are not the teacher's
GUIDED = FORCED & ~OTHERS


def given(objective: TrustRegion, seed: int) -> tuple[Tensor, TokenBatch, TeacherSignal]:
    """A batch with forced tokens, which the behaviour's own law forbids."""
    world, tokens, signal = batch(objective, seed)
    author = torch.where(GUIDED, int(Author.TEACHER), int(Author.STUDENT))
    never = tokens.behaviour_logp.masked_fill(FORCED, -torch.inf)
    tokens = replace(tokens, forced=FORCED, author=author, behaviour_logp=never)
    return world.student_logits, tokens, signal


def with_weight(objective: TrustRegion, weight: float | None) -> TrustRegion:
    fields: dict[str, Any] = objective.model_dump() | {"guidance_weight": weight}
    return TrustRegion(**fields)


@pytest.mark.parametrize("form", EVERY_FORM, ids=name)
@pytest.mark.parametrize("weight", [None, 0.25])
def test_guided_tokens_get_the_supervised_gradient_and_others_stay_as_they_were(
    form: TrustRegion, weight: float | None
) -> None:
    objective = with_weight(form, weight)
    z, tokens, signal = given(objective, 1)
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    assert plan.weight.tolist() == (~FORCED | GUIDED).float().tolist()
    assert plan.denominator == 10
    value, gradient, loss = run(objective, z, signal, tokens, plan.weight.double())
    for n in GUIDED.nonzero().flatten().tolist():
        expected = oracle.imitation(z[n].tolist(), int(tokens.ids[n]), weight or 0.001)
        assert value[n].item() == pytest.approx(expected[0], abs=1e-14)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-14)
    assert (gradient[OTHERS] == 0).all()
    free = ~FORCED
    alone = run(objective, z[free], signal[free], tokens[free])
    torch.testing.assert_close(value[free], alone[0])
    torch.testing.assert_close(gradient[free], alone[1])
    for key, part in alone[2].metrics.items():
        if key != "guidance_share":
            torch.testing.assert_close(loss.metrics[key], part)
    share, count = loss.metrics["guidance_share"]
    assert (share.item(), count.item()) == (4, 10)


@pytest.mark.parametrize("importance", ["exact", "truncated", "clipped"])
def test_guidance_carries_no_importance_weight(importance: Any) -> None:
    limit = {"exact": None, "truncated": 1.5, "clipped": 0.2}[importance]
    weighted = TrustRegion(top_k=K, importance=importance, importance_limit=limit)
    z, tokens, signal = given(weighted, 2)
    one = run(weighted, z, signal, tokens, (~FORCED | GUIDED).double())
    plain = run(TrustRegion(top_k=K), z, signal, tokens, (~FORCED | GUIDED).double())
    torch.testing.assert_close(one[1][GUIDED], plain[1][GUIDED])
    assert one[1].isfinite().all()
    assert not torch.isclose(one[1][~FORCED], plain[1][~FORCED]).all()


@pytest.mark.parametrize("form", EVERY_FORM, ids=name)
def test_guidance_of_weight_0_leaves_given_tokens_out(form: TrustRegion) -> None:
    objective = with_weight(form, 0.0)
    z, tokens, signal = given(objective, 3)
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    assert plan.weight.tolist() == (~FORCED).float().tolist()
    assert plan.denominator == 6
    _, gradient, loss = run(objective, z, signal, tokens, plan.weight.double())
    assert (gradient[FORCED] == 0).all()
    assert "guidance_share" not in loss.metrics


def test_a_step_without_a_token_has_divisor_0() -> None:
    world, tokens, signal = batch(TrustRegion(top_k=K), 4)
    none = slice(0, 0)
    plan = TrustRegion().plan(StepTokens(tokens[none], signal[none], CLOCK))
    assert (len(plan.weight), plan.denominator) == (0, 0.0)
    _, gradient = score_once(
        TrustRegion(top_k=K),
        world.student_logits[none],
        tokens[none],
        signal[none],
        plan.weight,
        CLOCK,
    )
    assert gradient.shape == (0, world.student_logits.shape[1])


@pytest.mark.parametrize("limit", [None, 1.5])
def test_a_forced_token_that_the_law_forbids_makes_no_nan_of_its_weight_0(
    limit: float | None,
) -> None:
    importance = "exact" if limit is None else "truncated"
    objective = ReverseKL(support="sampled", importance=importance, importance_limit=limit)
    z, tokens, signal = given(TrustRegion(top_k=K), 5)
    weight = objective.plan(StepTokens(tokens, signal, CLOCK)).weight.double()
    _, gradient, _ = run(objective, z, signal, tokens, weight)
    assert (gradient[FORCED] == 0).all()
    assert (gradient[~FORCED] != 0).any(-1).all()


@pytest.mark.parametrize("form", EVERY_FORM, ids=name)
def test_ids_that_either_model_masks_give_no_nan(form: TrustRegion) -> None:
    world, tokens, signal = batch(form, 6)
    # The last id is masked in both models; the one before by the teacher alone, and it was drawn.
    z, log_q = world.student_logits.clone(), world.teacher_logp.clone()
    z[:, -1], log_q[:, -2:] = -torch.inf, -torch.inf
    log_q = torch.log_softmax(log_q, -1)
    tokens = replace(tokens, ids=torch.full((12,), z.shape[1] - 2))
    top = log_q.topk(K, dim=-1)
    signal = TeacherSignal(
        sampled_logp=log_q[:, -2],
        student_topk_ids=signal.student_topk_ids,
        student_topk_logp=None
        if signal.student_topk_ids is None
        else log_q.gather(-1, signal.student_topk_ids),
        teacher_topk_ids=top.indices,
        teacher_topk_logp=top.values,
        logp=log_q,
    )
    value, gradient, _ = run(form, z, signal, tokens)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    if form.outlier == "forward_kl" and form.support == "sampled":
        # Surely an outlier: the forward KL alone.
        for n in range(12):
            expected = oracle.forward_kl_on(
                z[n, :-1].tolist(), log_q[n, :-1].tolist(), top.indices[n].tolist()
            )
            assert value[n].item() == pytest.approx(expected[0], abs=1e-13)
            assert gradient[n, :-1].tolist() == pytest.approx(expected[1], abs=1e-13)


@pytest.mark.parametrize("form", EVERY_FORM, ids=name)
def test_an_id_that_the_student_alone_masks_matters_to_outliers_only(form: TrustRegion) -> None:
    world, tokens, signal = batch(form, 7)
    z, log_q = world.student_logits.clone(), world.teacher_logp
    best = log_q.argmax(-1)
    z[torch.arange(12), best] = -torch.inf
    ids = torch.where(tokens.ids == best, log_q.argmin(-1), tokens.ids)
    log_p = torch.log_softmax(z, -1).gather(-1, ids[:, None])[:, 0]
    tokens = replace(tokens, ids=ids, student_logp=log_p)
    signal = replace(signal, sampled_logp=log_q.gather(-1, ids[:, None])[:, 0])
    value, gradient, loss = run(form, z, signal, tokens)
    assert not value.isnan().any()
    assert gradient.isfinite().all()
    if form.outlier != "forward_kl":
        assert value.isfinite().all()
    elif form.gate == "sampled":
        assert (value == torch.inf).sum() == loss.metrics["outlier_share"][0]
        assert 0 < loss.metrics["outlier_share"][0] < 12


@pytest.mark.parametrize("importance", ["none", "exact"])
@pytest.mark.parametrize("form", [o for o in EVERY_FORM if o.support == "sampled"], ids=name)
def test_a_drawn_token_that_the_student_cannot_say_counts_nothing(
    form: TrustRegion, importance: Any
) -> None:
    objective = TrustRegion(**(form.model_dump() | {"importance": importance}))
    world, tokens, signal = batch(objective, 8)
    z = world.student_logits.clone()
    # Neither can the teacher: this is how the end ids of one model alone look.
    z[torch.arange(12), tokens.ids] = -torch.inf
    never = torch.full((12,), -torch.inf, dtype=torch.float64)
    tokens = replace(tokens, student_logp=never, behaviour_logp=never)
    log_q = world.teacher_logp.scatter(-1, tokens.ids[:, None], -torch.inf)
    top = log_q.topk(K, dim=-1)
    signal = TeacherSignal(
        sampled_logp=never, teacher_topk_ids=top.indices, teacher_topk_logp=top.values
    )
    value, gradient, _ = run(objective, z, signal, tokens)
    assert (value == 0).all()
    assert (gradient == 0).all()
