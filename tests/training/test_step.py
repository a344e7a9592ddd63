"""The step module against plain autograd on full logits, and what it must not depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from naive_step import assert_same_gradient, gradients, naive_logp, step_gradient
from sweep_cases import make_cast
from torch import Tensor
from training_tiny import CLOCK, roll_out, step_module, tiny_pair

from tandem.behaviours import Behaviour, Student, Teacher, TrustRegionBlend
from tandem.core.reduce import MetricSums
from tandem.models.speaker import Speaker
from tandem.objectives import ReverseKL, TokenLoss
from tandem.training.batch import empty_micro_batch, pack
from tandem.training.step import decoder_layers, recompute_layers
from tandem.types import Rollout, TeacherSignal

WARMUP = TrustRegionBlend(budget=0.05, warmup_steps=4)


def naive_loss(
    student: Speaker, teacher: Speaker, rollouts: list[Rollout], *, top_k: int | None
) -> Tensor:
    """The mean over all tokens of the full reverse KL, or of TRB's form on recorded ids."""
    terms: list[Tensor] = []
    for rollout in rollouts:
        log_p = naive_logp(student, rollout.request.student_ids, rollout)
        with torch.no_grad():
            log_q = naive_logp(teacher, rollout.request.teacher_ids, rollout)
        if top_k is None:
            alive = log_p > -torch.inf
            safe_p, safe_q = log_p.masked_fill(~alive, 0.0), log_q.masked_fill(~alive, 0.0)
            terms.append((alive * safe_p.exp() * (safe_p - safe_q)).sum(-1))
        else:
            ids = rollout.signal.student_topk_ids
            assert ids is not None
            log_p, log_q = log_p.gather(-1, ids), log_q.gather(-1, ids)
            p = log_p.exp()
            weight = (p / p.sum(-1, keepdim=True) * (log_p - log_q)).detach()
            terms.append((weight * log_p).sum(-1))
    return torch.cat(terms).mean()


FORMS = {"full": ReverseKL(support="full"), "student_topk": ReverseKL(top_k=4)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("behaviour", [Student(), WARMUP, Teacher()], ids=lambda b: b.kind)
def test_gradient_is_that_of_full_logits_for_a_base_student_and_a_chat_teacher(
    form: str, tied: bool, behaviour: Behaviour
) -> None:
    objective = FORMS[form]
    student, teacher = tiny_pair(tied=tied)
    rollouts = roll_out(student, teacher, objective, behaviour=behaviour)
    expected = naive_loss(student, teacher, rollouts, top_k=objective.top_k)
    expected.backward()
    truth = gradients(student.model)
    loss, found = step_gradient(step_module(student, teacher), rollouts, objective)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-6)
    assert_same_gradient(found, truth, tolerance=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_recorded_teacher_statistics_give_the_gradient_of_fresh_ones(form: str) -> None:
    objective = FORMS[form]
    student, teacher = tiny_pair()
    recorded = roll_out(student, teacher, objective, behaviour=WARMUP)
    forgotten = [_without_teacher(rollout) for rollout in recorded]
    module = step_module(student, teacher)
    loss, with_record = step_gradient(module, recorded, objective)
    fresh_loss, fresh = step_gradient(module, forgotten, objective)
    assert loss == pytest.approx(fresh_loss, rel=1e-5, abs=1e-6)
    assert_same_gradient(with_record, fresh, tolerance=1e-5)


def test_a_recorded_top_k_runs_no_teacher_at_all() -> None:
    objective = FORMS["student_topk"]
    student, teacher = tiny_pair()
    rollouts = roll_out(student, teacher, objective, behaviour=WARMUP)
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter.fill_(torch.nan)  # any use of it would show
    loss, found = step_gradient(step_module(student, teacher), rollouts, objective)
    assert loss == loss and all(torch.isfinite(g).all() for g in found.values())


def _without_teacher(rollout: Rollout) -> Rollout:
    ids = rollout.signal.student_topk_ids
    return replace(rollout, signal=TeacherSignal(student_topk_ids=ids), teacher_logp=None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("token_budget", [1, 25, 60])
def test_loss_and_gradient_do_not_depend_on_micro_batches(form: str, token_budget: int) -> None:
    objective = FORMS[form]
    student, teacher = tiny_pair(dtype=torch.float64)
    rollouts = roll_out(student, teacher, objective)
    module = step_module(student, teacher)
    whole_loss, whole = step_gradient(module, rollouts, objective)
    loss, found = step_gradient(module, rollouts, objective, token_budget=token_budget)
    assert loss == pytest.approx(whole_loss, rel=1e-9)
    assert_same_gradient(found, whole, tolerance=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradient_do_not_depend_on_the_order_of_rollouts(form: str) -> None:
    objective = FORMS[form]
    student, teacher = tiny_pair(dtype=torch.float64)
    rollouts = roll_out(student, teacher, objective)
    module = step_module(student, teacher)
    loss, found = step_gradient(module, rollouts, objective, token_budget=40)
    other_loss, other = step_gradient(module, rollouts[::-1], objective, token_budget=40)
    assert loss == pytest.approx(other_loss, rel=1e-9)
    assert_same_gradient(found, other, tolerance=1e-9)


def test_loss_and_gradient_do_not_depend_on_the_chunk_size() -> None:
    student, teacher = tiny_pair(dtype=torch.float64)
    rollouts = roll_out(student, teacher, FORMS["full"])
    results = [
        step_gradient(step_module(student, teacher, chunk_bytes=size), rollouts, FORMS["full"])
        for size in (1, 4 * 40 * 7, 2**20)
    ]
    for loss, found in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-9)
        assert_same_gradient(found, results[0][1], tolerance=1e-9)


def test_an_empty_batch_gives_loss_zero_and_zero_gradients() -> None:
    student, teacher = tiny_pair()
    module = step_module(student, teacher)
    loss, sums = module(empty_micro_batch(), objective=FORMS["full"], clock=CLOCK, scale=0.0)
    loss.backward()
    assert float(loss.detach()) == 0.0 and not sums.names
    found = gradients(student.model)
    assert found.keys() == dict(student.model.named_parameters()).keys()
    assert all(not g.any() for g in found.values())


def test_reverse_kl_is_logged_as_the_mean_over_tokens() -> None:
    student, teacher = tiny_pair()
    rollouts = roll_out(student, teacher, FORMS["full"])
    module = step_module(student, teacher)
    batches = pack(rollouts, [torch.ones(len(r)) for r in rollouts], token_budget=30)
    assert len(batches) > 1
    sums = MetricSums()
    for batch in batches:
        sums.merge(module(batch, objective=FORMS["full"], clock=CLOCK, scale=1.0)[1])
    expected = naive_loss(student, teacher, rollouts, top_k=None)
    assert sums.means()["reverse_kl"] == pytest.approx(float(expected.detach()), rel=1e-5)


def half_weighed(rollouts: list[Rollout]) -> list[Tensor]:
    """Weight 2 for every other token, 0 for the rest."""
    return [2.0 * (torch.arange(len(r)) % 2) for r in rollouts]


def test_the_logged_value_is_the_unweighted_mean_over_trained_tokens() -> None:
    student, teacher = tiny_pair()
    rollouts = roll_out(student, teacher, FORMS["full"])
    weights = half_weighed(rollouts)
    values: list[Tensor] = []
    for rollout, weight in zip(rollouts, weights, strict=True):
        log_p = naive_logp(student, rollout.request.student_ids, rollout).detach()
        log_q = naive_logp(teacher, rollout.request.teacher_ids, rollout).detach()
        alive = log_p > -torch.inf
        ratio = log_p.masked_fill(~alive, 0.0) - log_q.masked_fill(~alive, 0.0)
        values.append((log_p.exp() * ratio).sum(-1)[weight != 0])
    module = step_module(student, teacher)
    (batch,) = pack(rollouts, weights, token_budget=10_000)
    _, sums = module(batch, objective=FORMS["full"], clock=CLOCK, scale=1.0)
    expected = torch.cat(values).mean()
    assert sums.means()["reverse_kl"] == pytest.approx(float(expected), rel=1e-5)


class Endless(ReverseKL):
    """No number but inf wherever a token is not trained on."""

    def loss(self, logits: Tensor, *, weight: Tensor, **known: Any) -> TokenLoss:
        result = super().loss(logits, weight=weight, **known)
        left_out = weight == 0
        return replace(
            result,
            surrogate=result.surrogate.masked_fill(left_out, torch.inf),
            value=result.value.masked_fill(left_out, torch.inf),
        )


def test_a_token_of_weight_0_may_have_an_infinite_loss() -> None:
    student, teacher = tiny_pair()
    rollouts = roll_out(student, teacher, FORMS["full"])
    module = step_module(student, teacher)
    (batch,) = pack(rollouts, half_weighed(rollouts), token_budget=10_000)
    found: list[tuple[float, dict[str, float], dict[str, Tensor]]] = []
    for objective in (FORMS["full"], Endless(support="full")):
        loss, sums = module(batch, objective=objective, clock=CLOCK, scale=1.0)
        loss.backward()
        found.append((float(loss.detach()), sums.means(), gradients(student.model)))
    assert found[1][:2] == found[0][:2]
    assert_same_gradient(found[1][2], found[0][2], tolerance=1e-6)


def test_the_step_trains_the_student_and_nothing_else() -> None:
    student, teacher = tiny_pair()
    rollouts = roll_out(student, teacher, FORMS["full"])
    module = step_module(student, teacher)
    step_gradient(module, rollouts, FORMS["full"])
    assert all(p.grad is None for p in teacher.model.parameters())


def test_recomputing_layers_changes_no_gradient_and_runs_every_layer_again() -> None:
    student, teacher = tiny_pair()
    rollouts = roll_out(student, teacher, FORMS["full"])
    module = step_module(student, teacher)
    calls: list[int] = []
    # The attention: recomputing stops as soon as it has what the backward wants, inside the MLP.
    for layer in decoder_layers(student.model):
        layer.get_submodule("self_attn").register_forward_hook(lambda *_: calls.append(1))
    loss, plain = step_gradient(module, rollouts, FORMS["full"])
    once = len(calls)
    recompute_layers(student.model)
    again_loss, again = step_gradient(module, rollouts, FORMS["full"])
    assert len(calls) - once == 2 * once
    assert again_loss == loss
    assert_same_gradient(again, plain, tolerance=1e-6)
    layers = decoder_layers(student.model)
    assert not any(m.training for m in student.model.modules() if m not in layers)


@pytest.mark.parametrize("token_budget", [None, 40])
def test_every_row_learns_from_its_own_teacher(token_budget: int | None) -> None:
    cast = make_cast(torch.float64)
    full = ReverseKL(support="full")
    rollouts = cast.roll_out(full)
    terms: list[Tensor] = []
    for rollout in rollouts:
        request = rollout.request
        log_p = naive_logp(cast.student, request.student_ids, rollout)
        with torch.no_grad():
            log_q = naive_logp(cast.teachers[request.teacher], request.teacher_ids, rollout)
        alive = log_p > -torch.inf
        ratio = log_p.masked_fill(~alive, 0.0) - log_q.masked_fill(~alive, 0.0)
        terms.append((log_p.exp() * ratio).sum(-1))
    expected = torch.cat(terms).mean()
    expected.backward()
    truth = gradients(cast.student.model)
    loss, found = step_gradient(
        cast.module(), rollouts, full, token_budget=10_000 if token_budget is None else token_budget
    )
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert_same_gradient(found, truth, tolerance=1e-5)
