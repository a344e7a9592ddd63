"""Every legal form of ReverseKL, by enumeration under every behaviour.

Shapes: V vocabulary, K support; a batch here is one prefix repeated once per token, N = V.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reverse_kl_forms import AT_REST, CLOCK, K, V
from torch import Tensor

from oracles import objectives as oracle
from tandem.behaviours import (
    Behaviour,
    FixedBudgetBlend,
    FixedExponentBlend,
    Student,
    Teacher,
    TemperatureWarmup,
    TrustRegionBlend,
)
from tandem.objectives import ReverseKL, TokenLoss
from tandem.types import TeacherSignal, TokenBatch

BEHAVIOURS: list[Behaviour] = [
    Student(),
    TemperatureWarmup(start_temperature=0.6, warmup_steps=10),
    TrustRegionBlend(budget=0.1, warmup_steps=10),
    FixedBudgetBlend(budget=0.05),
    FixedExponentBlend(exponent=0.4),
    Teacher(),
]
# The fields of each form that sums over a support, and the gradient it declares.
SUMMED: list[tuple[dict[str, Any], Any]] = [
    ({"tail": "none"}, oracle.detached),
    ({"tail": "none", "realisation": "detached"}, oracle.detached),
    ({"tail": "none", "realisation": "autograd"}, oracle.plain),
    ({"tail": "renormalise_weights"}, oracle.weights_renormalised),
    ({"tail": "renormalise"}, oracle.renormalised),
    ({"tail": "bucket"}, oracle.bucket),
]
SAMPLED = ["policy_gradient", "k2"]


def prefix(seed: int) -> tuple[Tensor, Tensor]:
    """float64 logits [V] and teacher log q [V]; the last id is masked in both."""
    generator = torch.Generator().manual_seed(seed)
    z, a = 1.5 * torch.randn(2, V, generator=generator, dtype=torch.float64)
    z[-1] = a[-1] = -torch.inf
    return z, torch.log_softmax(a, -1)


def signal_of(z: Tensor, log_q: Tensor) -> TeacherSignal:
    """All parts for one prefix, repeated for each of the V tokens."""
    student_ids, teacher_ids = z.topk(K).indices, log_q.topk(K).indices
    return TeacherSignal(
        sampled_logp=log_q.clone(),
        student_topk_ids=student_ids.expand(V, K),
        student_topk_logp=log_q[student_ids].expand(V, K),
        teacher_topk_ids=teacher_ids.expand(V, K),
        teacher_topk_logp=log_q[teacher_ids].expand(V, K),
        logp=log_q.expand(V, V),
    )


def tokens_of(log_p: Tensor, log_mu: Tensor) -> TokenBatch:
    """Each token of the vocabulary once, drawn from mu."""
    index = torch.arange(V)
    return TokenBatch(
        ids=index,
        sequence=torch.zeros_like(index),
        position=torch.zeros_like(index),
        behaviour_logp=log_mu,
        student_logp=log_p,
        author=torch.zeros_like(index),
        policy_version=torch.zeros_like(index),
        forced=torch.zeros_like(index).bool(),
    )


def law_of(behaviour: Behaviour, z: Tensor, log_q: Tensor) -> Tensor:
    law = behaviour(
        student_logp=torch.log_softmax(z, -1)[None].float(),
        teacher_logp=log_q[None].float(),
        clock=CLOCK,
        position=torch.zeros(1, dtype=torch.int64),
    )
    return law.logp[0].double()


def enumerate_tokens(
    objective: ReverseKL, z: Tensor, log_q: Tensor, log_mu: Tensor
) -> tuple[float, list[float], TokenLoss]:
    """E_{y ~ mu} of value and of the surrogate's gradient in the logits."""
    possible = z > -torch.inf
    leaf = z.expand(V, V).clone().requires_grad_()
    log_mu = torch.log_softmax(log_mu, -1)
    loss = objective.loss(
        leaf,
        signal=signal_of(z, log_q),
        tokens=tokens_of(torch.log_softmax(z, -1), log_mu),
        weight=possible.double(),
        clock=CLOCK,
    )
    mu = log_mu.exp()
    (gradient,) = torch.autograd.grad(
        torch.where(possible, mu * loss.surrogate, 0.0).sum(), leaf, retain_graph=True
    )
    value = torch.where(possible, mu * loss.value, 0.0).sum().item()
    return value, gradient.sum(0).tolist(), loss


def assert_result(actual: tuple[float, list[float], Any], expected: oracle.Result) -> None:
    assert actual[0] == pytest.approx(expected[0], abs=1e-12)
    assert actual[1] == pytest.approx(expected[1], abs=1e-12)


# ------------------------------------------------------------------ the declared gradient


def test_value_and_gradient_of_the_default_match_the_numbers_worked_by_hand() -> None:
    # p = (1/2, 1/4, 1/4), q = (1/4, 1/8, 5/8), support {0, 1}: both log-ratios are ln 2, m = 3/4,
    # so the value is ln 2 and the gradient ln 2 · ((2/3, 1/3, 0) − p).
    ln2 = 0.6931471805599453
    leaf = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log().requires_grad_()
    signal = TeacherSignal(
        student_topk_ids=torch.tensor([[0, 1]]),
        student_topk_logp=torch.tensor([[0.25, 0.125]], dtype=torch.float64).log(),
    )
    one = torch.zeros(1, dtype=torch.int64)
    tokens = TokenBatch(one, one, one, one.double(), one.double(), one, one, one.bool())
    objective = ReverseKL(top_k=2)
    loss = objective.loss(leaf, signal=signal, tokens=tokens, weight=torch.ones(1), clock=CLOCK)
    (gradient,) = torch.autograd.grad(loss.surrogate.sum(), leaf)
    assert loss.value.item() == pytest.approx(ln2, abs=1e-15)
    assert gradient[0].tolist() == pytest.approx([ln2 / 6, ln2 / 12, -ln2 / 4], abs=1e-15)
    student_mass, count = loss.metrics["student_mass"]
    assert (student_mass.item(), count.item()) == pytest.approx((0.75, 1))
    assert loss.metrics["teacher_mass"][0].item() == pytest.approx(0.375)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
def test_the_full_form_has_the_reverse_kl_gradient_under_every_behaviour(
    behaviour: Behaviour,
) -> None:
    objective = ReverseKL(support="full")
    objective.check(behaviour, updates_per_rollout=1)
    z, log_q = prefix(1)
    actual = enumerate_tokens(objective, z, log_q, law_of(behaviour, z, log_q))
    assert_result(actual, oracle.full(z.tolist(), log_q.tolist()))


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
@pytest.mark.parametrize("support", ["student_topk", "teacher_topk"])
@pytest.mark.parametrize("fields, declared", SUMMED, ids=lambda f: getattr(f, "__name__", str(f)))
def test_each_top_k_form_has_its_declared_gradient_under_every_behaviour(
    behaviour: Behaviour, support: Any, fields: dict[str, Any], declared: Any
) -> None:
    objective = ReverseKL(support=support, top_k=K, **fields)
    objective.check(behaviour, updates_per_rollout=1)
    z, log_q = prefix(2)
    ids = (z if support == "student_topk" else log_q).topk(K).indices
    assert set(z.topk(K).indices.tolist()) != set(log_q.topk(K).indices.tolist())
    actual = enumerate_tokens(objective, z, log_q, law_of(behaviour, z, log_q))
    assert_result(actual, declared(z.tolist(), log_q.tolist(), ids.tolist()))


@pytest.mark.parametrize("realisation", SAMPLED)
def test_sampled_forms_have_the_reverse_kl_gradient_under_the_student(realisation: Any) -> None:
    objective = ReverseKL(support="sampled", realisation=realisation)
    objective.check(Student(), updates_per_rollout=1)
    z, log_q = prefix(3)
    actual = enumerate_tokens(objective, z, log_q, torch.log_softmax(z, -1))
    assert_result(actual, oracle.full(z.tolist(), log_q.tolist()))


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
@pytest.mark.parametrize("realisation", SAMPLED)
def test_sampled_forms_with_exact_weights_have_it_under_every_behaviour(
    behaviour: Behaviour, realisation: Any
) -> None:
    objective = ReverseKL(support="sampled", realisation=realisation, importance="exact")
    objective.check(behaviour, updates_per_rollout=1)
    z, log_q = prefix(4)
    actual = enumerate_tokens(objective, z, log_q, law_of(behaviour, z, log_q))
    assert_result(actual, oracle.full(z.tolist(), log_q.tolist()))


@pytest.mark.parametrize("realisation", SAMPLED)
def test_sampled_forms_with_truncated_weights_keep_the_declared_share_of_each_token(
    realisation: Any,
) -> None:
    objective = ReverseKL(
        support="sampled", realisation=realisation, importance="truncated", importance_limit=1.1
    )
    z, log_q = prefix(5)
    log_mu = law_of(FixedExponentBlend(exponent=0.5), z, log_q)
    objective.check(FixedExponentBlend(exponent=0.5), updates_per_rollout=1)
    p, mu = torch.softmax(z, -1), log_mu.softmax(-1)
    share = torch.where(p > 0, (1.1 * mu / p).clamp(max=1.0), 1.0)
    assert 0 < int((share < 1).sum()) < V - 1
    expected = oracle.weighted(z.tolist(), log_q.tolist(), share.tolist())
    assert_result(enumerate_tokens(objective, z, log_q, log_mu), expected)


@pytest.mark.parametrize("realisation", SAMPLED)
def test_the_case_that_check_refuses_is_indeed_wrong(realisation: Any) -> None:
    objective = ReverseKL(support="sampled", realisation=realisation)
    z, log_q = prefix(6)
    law = law_of(TrustRegionBlend(budget=0.1, warmup_steps=10), z, log_q)
    _, gradient, _ = enumerate_tokens(objective, z, log_q, law)
    _, right = oracle.full(z.tolist(), log_q.tolist())
    assert max(abs(a - b) for a, b in zip(gradient, right, strict=True)) > 0.01


# ------------------------------------------------------------------ teacher = student


@pytest.mark.parametrize(
    "objective", AT_REST, ids=lambda o: f"{o.support}-{o.tail}-{o.realisation}"
)
def test_at_teacher_equal_student_loss_and_gradient_are_0(objective: ReverseKL) -> None:
    z, _ = prefix(7)
    log_p = torch.log_softmax(z, -1)
    value, gradient, loss = enumerate_tokens(objective, z, log_p, log_p)
    assert value == pytest.approx(0.0, abs=1e-14)
    assert loss.value.abs().max() < 1e-14
    assert gradient == pytest.approx([0.0] * V, abs=1e-14)


def test_at_teacher_equal_student_the_plain_truncated_form_has_the_gradient_of_m() -> None:
    z, _ = prefix(7)
    log_p = torch.log_softmax(z, -1)
    objective = ReverseKL(top_k=K, tail="none", realisation="autograd")
    value, gradient, _ = enumerate_tokens(objective, z, log_p, log_p)
    expected = oracle.mass_gradient(z.tolist(), z.topk(K).indices.tolist())
    assert value == pytest.approx(0.0, abs=1e-14)
    assert gradient == pytest.approx(expected, abs=1e-14)
    assert max(gradient) > 0.01
