"""What must not change the result of ReverseKL, what it reads and what it reports."""

from __future__ import annotations

import pytest
import torch
from reverse_kl_forms import CLOCK, EVERY_FORM, K, V
from torch import Tensor

from oracles import objectives as oracle
from tandem.objectives import ReverseKL, TokenLoss
from tandem.objectives.base import StepTokens
from tandem.types import SignalSpec, TeacherSignal, TokenBatch

OVER_FORMS = pytest.mark.parametrize(
    "objective", EVERY_FORM, ids=lambda o: f"{o.support}-{o.tail}-{o.realisation}-{o.importance}"
)


def batch(seed: int, rows: int = 12) -> tuple[Tensor, TeacherSignal, TokenBatch]:
    """rows different prefixes with one token each, drawn uniformly."""
    generator = torch.Generator().manual_seed(seed)
    z, a = torch.randn(2, rows, V, generator=generator, dtype=torch.float64)
    log_p, log_q = torch.log_softmax(z, -1), torch.log_softmax(a, -1)
    student_ids, teacher_ids = z.topk(K).indices, log_q.topk(K).indices
    ids = torch.randint(V, (rows,), generator=generator)
    signal = TeacherSignal(
        sampled_logp=log_q.gather(-1, ids[:, None])[:, 0],
        student_topk_ids=student_ids,
        student_topk_logp=log_q.gather(-1, student_ids),
        teacher_topk_ids=teacher_ids,
        teacher_topk_logp=log_q.gather(-1, teacher_ids),
        logp=log_q,
    )
    zero = torch.zeros(rows, dtype=torch.int64)
    tokens = TokenBatch(
        ids=ids,
        sequence=zero,
        position=torch.arange(rows),
        behaviour_logp=torch.full((rows,), 1.0 / V, dtype=torch.float64).log(),
        student_logp=log_p.gather(-1, ids[:, None])[:, 0],
        author=zero,
        policy_version=zero,
        forced=zero.bool(),
    )
    return z, signal, tokens


def run(
    objective: ReverseKL, z: Tensor, signal: TeacherSignal, tokens: TokenBatch, weight: Tensor
) -> tuple[Tensor, Tensor, TokenLoss]:
    leaf = z.clone().requires_grad_()
    loss = objective.loss(leaf, signal=signal, tokens=tokens, weight=weight, clock=CLOCK)
    (gradient,) = torch.autograd.grad((weight * loss.surrogate).sum(), leaf)
    return loss.value, gradient, loss


@OVER_FORMS
def test_splitting_the_batch_changes_neither_value_nor_gradient_nor_metrics(
    objective: ReverseKL,
) -> None:
    z, signal, tokens = batch(8)
    weight = torch.linspace(0.5, 2.0, len(tokens), dtype=torch.float64)
    value, gradient, loss = run(objective, z, signal, tokens, weight)
    cuts = [slice(0, 1), slice(1, 5), slice(5, 12)]
    parts = [run(objective, z[c], signal[c], tokens[c], weight[c]) for c in cuts]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), value)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), gradient)
    for name, (total, count) in loss.metrics.items():
        split = [p[2].metrics[name] for p in parts]
        torch.testing.assert_close(sum(t for t, _ in split), total)
        assert sum(int(c) for _, c in split) == count == len(tokens)


@OVER_FORMS
def test_rows_of_weight_0_leave_metrics_and_the_other_rows_alone(objective: ReverseKL) -> None:
    z, signal, tokens = batch(9)
    keep = torch.arange(len(tokens)) % 3 != 0
    whole = run(objective, z, signal, tokens, keep.double())
    alone = run(objective, z[keep], signal[keep], tokens[keep], torch.ones(int(keep.sum())))
    torch.testing.assert_close(whole[0][keep], alone[0])
    torch.testing.assert_close(whole[1][keep], alone[1])
    assert (whole[1][~keep] == 0).all()
    for name, (total, count) in whole[2].metrics.items():
        torch.testing.assert_close(total, alone[2].metrics[name][0])
        assert count == alone[2].metrics[name][1] == keep.sum()


@OVER_FORMS
def test_a_constant_added_to_the_logits_changes_nothing(objective: ReverseKL) -> None:
    z, signal, tokens = batch(10)
    weight = torch.ones(len(tokens), dtype=torch.float64)
    expected = run(objective, z, signal, tokens, weight)
    actual = run(objective, z - 11.0, signal, tokens, weight)
    torch.testing.assert_close(actual[:2], expected[:2], atol=1e-12, rtol=0.0)


@OVER_FORMS
def test_a_permuted_vocabulary_permutes_the_gradient(objective: ReverseKL) -> None:
    z, signal, tokens = batch(11)
    weight = torch.ones(len(tokens), dtype=torch.float64)
    expected = run(objective, z, signal, tokens, weight)
    order = torch.randperm(V, generator=torch.Generator().manual_seed(0))
    place = order.argsort()  # old id -> new id
    assert signal.logp is not None and signal.sampled_logp is not None
    assert signal.student_topk_ids is not None and signal.teacher_topk_ids is not None
    moved = TeacherSignal(
        sampled_logp=signal.sampled_logp,
        student_topk_ids=place[signal.student_topk_ids],
        student_topk_logp=signal.student_topk_logp,
        teacher_topk_ids=place[signal.teacher_topk_ids],
        teacher_topk_logp=signal.teacher_topk_logp,
        logp=signal.logp[:, order],
    )
    renamed = TokenBatch(
        ids=place[tokens.ids],
        sequence=tokens.sequence,
        position=tokens.position,
        behaviour_logp=tokens.behaviour_logp,
        student_logp=tokens.student_logp,
        author=tokens.author,
        policy_version=tokens.policy_version,
        forced=tokens.forced,
    )
    actual = run(objective, z[:, order], moved, renamed, weight)
    torch.testing.assert_close(actual[0], expected[0])
    torch.testing.assert_close(actual[1], expected[1][:, order])


# ------------------------------------------------------------------ what is read and told


def test_needs_asks_for_the_part_that_the_support_reads() -> None:
    assert ReverseKL().needs() == SignalSpec(student_topk=16)
    assert ReverseKL(support="teacher_topk", top_k=5).needs() == SignalSpec(teacher_topk=5)
    assert ReverseKL(support="full").needs() == SignalSpec(dense=True)
    assert ReverseKL(support="sampled").needs() == SignalSpec(sampled=True)


def test_only_the_part_that_needs_names_is_read() -> None:
    z, signal, tokens = batch(12)
    weight = torch.ones(len(tokens), dtype=torch.float64)
    only = TeacherSignal(
        student_topk_ids=signal.student_topk_ids, student_topk_logp=signal.student_topk_logp
    )
    expected = run(ReverseKL(top_k=K), z, signal, tokens, weight)
    torch.testing.assert_close(run(ReverseKL(top_k=K), z, only, tokens, weight)[:2], expected[:2])


def test_the_ids_are_those_of_the_rollout_even_when_the_student_has_moved_on() -> None:
    z, signal, tokens = batch(17)
    weight = torch.ones(len(tokens), dtype=torch.float64)
    moved = z.flip(-1)
    assert signal.student_topk_ids is not None and signal.student_topk_logp is not None
    assert not torch.equal(moved.topk(K).indices.sort().values, signal.student_topk_ids)
    value, gradient, _ = run(ReverseKL(top_k=K), moved, signal, tokens, weight)
    assert signal.logp is not None
    for n in range(len(tokens)):
        ids = signal.student_topk_ids[n].tolist()
        expected = oracle.weights_renormalised(moved[n].tolist(), signal.logp[n].tolist(), ids)
        assert value[n].item() == pytest.approx(expected[0], abs=1e-13)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-13)


def test_policy_gradient_and_k2_agree_in_gradient_and_value_but_minimise_their_own_number() -> None:
    z, signal, tokens = batch(18)
    weight = torch.ones(len(tokens), dtype=torch.float64)
    k1, k2 = (
        run(ReverseKL(support="sampled", realisation=r), z, signal, tokens, weight)
        for r in ("policy_gradient", "k2")
    )
    torch.testing.assert_close(k1[:2], k2[:2])
    log_p = torch.log_softmax(z, -1).gather(-1, tokens.ids[:, None])[:, 0]
    torch.testing.assert_close(k1[2].surrogate.detach(), k1[0] * log_p)
    torch.testing.assert_close(k2[2].surrogate.detach(), 0.5 * k2[0].square())


def test_metrics_of_the_full_form_are_the_student_entropy() -> None:
    z, signal, tokens = batch(13)
    loss = run(ReverseKL(support="full"), z, signal, tokens, torch.ones(len(tokens)))[2]
    p = torch.softmax(z, -1)
    total, count = loss.metrics["student_entropy"]
    torch.testing.assert_close(total, -(p * p.log()).sum())
    assert count == len(tokens)


def test_metrics_of_sampled_forms_are_log_ratio_and_weight() -> None:
    z, signal, tokens = batch(14)
    objective = ReverseKL(support="sampled", importance="truncated", importance_limit=1.5)
    loss = run(objective, z, signal, tokens, torch.ones(len(tokens)))[2]
    log_p = torch.log_softmax(z, -1).gather(-1, tokens.ids[:, None])[:, 0]
    assert signal.sampled_logp is not None
    torch.testing.assert_close(loss.metrics["log_ratio"][0], (log_p - signal.sampled_logp).sum())
    weight = (log_p.exp() * V).clamp(max=1.5)
    torch.testing.assert_close(loss.metrics["importance_weight"][0], weight.sum())


def test_the_plan_weighs_every_token_alike_and_divides_by_their_number() -> None:
    _, signal, tokens = batch(15)
    plan = ReverseKL().plan(StepTokens(tokens, signal, CLOCK))
    assert plan.weight.tolist() == [1.0] * len(tokens)
    assert plan.denominator == len(tokens)


@pytest.mark.parametrize("objective", [o for o in EVERY_FORM if o.importance == "none"])
def test_logits_that_come_from_bf16_lose_no_more_than_the_naive_bf16_form(
    objective: ReverseKL,
) -> None:
    z, signal, tokens = batch(16, rows=256)
    weight = torch.ones(len(tokens), dtype=torch.float64)
    truth = run(objective, z, signal, tokens, weight)
    ours = run(objective, z.bfloat16().float(), _cast(signal, torch.float32), tokens, weight)
    naive = run(objective, z.bfloat16(), _cast(signal, torch.bfloat16), tokens, weight)
    right, mine, rough = truth[:2], ours[:2], naive[:2]
    for exact, actual, coarse in zip(right, mine, rough, strict=True):
        error = (actual.double() - exact).abs().mean()
        assert error <= (coarse.double() - exact).abs().mean() + 1e-6


def _cast(signal: TeacherSignal, dtype: torch.dtype) -> TeacherSignal:
    def cast(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(dtype)

    return TeacherSignal(
        sampled_logp=cast(signal.sampled_logp),
        student_topk_ids=signal.student_topk_ids,
        student_topk_logp=cast(signal.student_topk_logp),
        teacher_topk_ids=signal.teacher_topk_ids,
        teacher_topk_logp=cast(signal.teacher_topk_logp),
        logp=cast(signal.logp),
    )
