from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from oracles import objectives as oracle
from tandem.core.counter import uniform
from tandem.core.divergences import kl
from tandem.core.estimators import importance_weight, reverse_kl_k1, reverse_kl_k2
from tandem.core.sampling import sample
from tandem.core.support import Scored, log_softmax_at

V = 7
ESTIMATORS: dict[str, Callable[..., Scored]] = {"k1": reverse_kl_k1, "k2": reverse_kl_k2}
EACH = pytest.mark.parametrize("name", ESTIMATORS)
LN2 = math.log(2.0)


def pair(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """float64 logits [V], teacher log q [V] and another law's log mu [V]."""
    generator = torch.Generator().manual_seed(seed)
    z, a, b = 1.5 * torch.randn(3, V, generator=generator, dtype=torch.float64)
    return z, torch.log_softmax(a, -1), torch.log_softmax(b, -1)


def every_draw(logits: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf [V, V] with the same prefix once per token, and log p(y) [V] of each token y."""
    leaf = logits.expand(V, V).clone().requires_grad_()
    return leaf, log_softmax_at(logits=leaf, ids=torch.arange(V)[:, None]).squeeze(-1)


def expected_gradient(surrogate: Tensor, leaf: Tensor, law: Tensor) -> list[float]:
    """E_{y ~ law} of the surrogate's gradient, by enumeration of y."""
    (gradient,) = torch.autograd.grad((law * surrogate).sum(), leaf)
    return gradient.sum(0).tolist()


@EACH
def test_value_and_gradient_match_the_numbers_worked_by_hand(name: str) -> None:
    # p(y) = 1/2, q(y) = 1/4: l = ln 2, and l ∇log p(y) = ln 2 · (e_y − p).
    leaf = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log().requires_grad_()
    log_p = log_softmax_at(logits=leaf, ids=torch.tensor([[0]])).squeeze(-1)
    log_q = torch.tensor([0.25], dtype=torch.float64).log()
    scored = ESTIMATORS[name](log_p=log_p, log_q=log_q)
    (gradient,) = torch.autograd.grad(scored.surrogate.sum(), leaf, retain_graph=True)
    assert scored.value.item() == pytest.approx(LN2, abs=1e-15)
    assert gradient[0].tolist() == pytest.approx([LN2 / 2, -LN2 / 4, -LN2 / 4], abs=1e-15)
    weight = torch.tensor([3.0], dtype=torch.float64)
    weighted = ESTIMATORS[name](log_p=log_p, log_q=log_q, weight=weight)
    (gradient,) = torch.autograd.grad(weighted.surrogate.sum(), leaf)
    assert weighted.value.item() == pytest.approx(3 * LN2, abs=1e-15)
    assert gradient[0, 0].item() == pytest.approx(1.5 * LN2, abs=1e-15)


def test_the_minimised_numbers_are_those_that_the_names_promise() -> None:
    log_p, log_q = torch.tensor([-LN2]), torch.tensor([-2 * LN2])
    k1 = reverse_kl_k1(log_p=log_p, log_q=log_q)
    k2 = reverse_kl_k2(log_p=log_p, log_q=log_q)
    assert k1.surrogate.item() == pytest.approx(-LN2 * LN2)
    assert k2.surrogate.item() == pytest.approx(0.5 * LN2 * LN2)


@EACH
@pytest.mark.parametrize("seed", range(4))
def test_drawn_from_the_student_the_expected_gradient_is_that_of_reverse_kl(
    name: str, seed: int
) -> None:
    z, log_q, _ = pair(seed)
    leaf, log_p = every_draw(z)
    scored = ESTIMATORS[name](log_p=log_p, log_q=log_q)
    value, gradient = oracle.full(z.tolist(), log_q.tolist())
    p = torch.softmax(z, -1)
    assert expected_gradient(scored.surrogate, leaf, p) == pytest.approx(gradient, abs=1e-13)
    assert (p * scored.value).sum().item() == pytest.approx(value, abs=1e-13)


@EACH
@pytest.mark.parametrize("seed", range(4))
def test_drawn_from_another_law_the_exact_weight_restores_value_and_gradient(
    name: str, seed: int
) -> None:
    z, log_q, log_mu = pair(seed)
    leaf, log_p = every_draw(z)
    weight = importance_weight(log_p=log_p, behaviour_logp=log_mu)
    scored = ESTIMATORS[name](log_p=log_p, log_q=log_q, weight=weight)
    value, gradient = oracle.full(z.tolist(), log_q.tolist())
    mu = log_mu.exp()
    assert expected_gradient(scored.surrogate, leaf, mu) == pytest.approx(gradient, abs=1e-13)
    assert (mu * scored.value).sum().item() == pytest.approx(value, abs=1e-13)


@EACH
def test_drawn_from_another_law_without_a_weight_the_gradient_is_wrong(name: str) -> None:
    z, log_q, log_mu = pair(0)
    leaf, log_p = every_draw(z)
    scored = ESTIMATORS[name](log_p=log_p, log_q=log_q)
    _, gradient = oracle.full(z.tolist(), log_q.tolist())
    actual = expected_gradient(scored.surrogate, leaf, log_mu.exp())
    assert max(abs(a - b) for a, b in zip(actual, gradient, strict=True)) > 0.1


@EACH
def test_a_truncated_weight_gives_each_token_at_most_limit_times_mu(name: str) -> None:
    z, log_q, log_mu = pair(1)
    leaf, log_p = every_draw(z)
    limit = 1.2
    weight = importance_weight(log_p=log_p, behaviour_logp=log_mu, limit=limit)
    p, mu = torch.softmax(z, -1), log_mu.exp()
    assert (p / mu > limit).any() and (p / mu < limit).any()
    scored = ESTIMATORS[name](log_p=log_p, log_q=log_q, weight=weight)
    share = (limit * mu / p).clamp(max=1.0)
    value, gradient = oracle.weighted(z.tolist(), log_q.tolist(), share.tolist())
    assert expected_gradient(scored.surrogate, leaf, mu) == pytest.approx(gradient, abs=1e-13)
    assert (mu * scored.value).sum().item() == pytest.approx(value, abs=1e-13)


def test_the_weight_is_p_over_mu_and_carries_no_gradient() -> None:
    log_p = torch.tensor([0.5, 0.25]).log().requires_grad_()
    weight = importance_weight(log_p=log_p, behaviour_logp=torch.tensor([0.25, 0.5]).log())
    assert weight.tolist() == pytest.approx([2.0, 0.5])
    assert not weight.requires_grad


@EACH
def test_at_teacher_equal_student_every_single_token_is_at_rest(name: str) -> None:
    z, _, _ = pair(2)
    leaf, log_p = every_draw(z)
    scored = ESTIMATORS[name](log_p=log_p, log_q=log_p.detach())
    (gradient,) = torch.autograd.grad(scored.surrogate.sum(), leaf)
    assert (scored.value == 0).all()
    assert (gradient == 0).all()


# The forms that are left out: why.


def test_autograd_of_the_log_ratio_has_no_expected_gradient() -> None:
    z, log_q, _ = pair(3)
    leaf, log_p = every_draw(z)
    assert expected_gradient(log_p - log_q, leaf, torch.softmax(z, -1)) == pytest.approx(
        [0.0] * V, abs=1e-14
    )


def test_autograd_of_k3_follows_the_forward_kl() -> None:
    z, log_q, _ = pair(3)
    leaf, log_p = every_draw(z)
    k3 = torch.exp(log_q - log_p) - 1 - (log_q - log_p)
    assert expected_gradient(k3, leaf, torch.softmax(z, -1)) == pytest.approx(
        oracle.forward_kl_gradient(z.tolist(), log_q.tolist()), abs=1e-13
    )


def test_the_kl_of_a_prefix_as_advantage_has_no_expected_gradient() -> None:
    z, log_q, _ = pair(3)
    leaf, log_p = every_draw(z)
    advantage = kl(log_p=torch.log_softmax(z, -1), log_q=log_q)
    assert expected_gradient(advantage * log_p, leaf, torch.softmax(z, -1)) == pytest.approx(
        [0.0] * V, abs=1e-14
    )


# Masked ids.


@EACH
def test_a_token_that_the_student_cannot_draw_counts_nothing(name: str) -> None:
    leaf = torch.tensor([[0.1, -torch.inf, 0.3]], dtype=torch.float64, requires_grad=True)
    log_p = log_softmax_at(logits=leaf, ids=torch.tensor([[1]])).squeeze(-1)
    for log_q in (torch.tensor([-1.0]).double(), torch.tensor([-torch.inf]).double()):
        scored = ESTIMATORS[name](log_p=log_p, log_q=log_q, weight=torch.zeros(1).double())
        (gradient,) = torch.autograd.grad(scored.surrogate.sum(), leaf, retain_graph=True)
        assert scored.value.item() == 0.0
        assert (gradient == 0).all()


@EACH
def test_a_token_that_only_the_teacher_masks_is_infinite_without_a_nan_gradient(name: str) -> None:
    leaf = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64, requires_grad=True)
    log_p = log_softmax_at(logits=leaf, ids=torch.tensor([[1]])).squeeze(-1)
    scored = ESTIMATORS[name](log_p=log_p, log_q=torch.tensor([-torch.inf]).double())
    (gradient,) = torch.autograd.grad(scored.surrogate.sum(), leaf)
    assert scored.value.item() == scored.surrogate.item() == math.inf
    assert (gradient == 0).all()


# Monte Carlo.


@EACH
@pytest.mark.parametrize("other", [False, True])
def test_the_mean_value_of_drawn_tokens_estimates_reverse_kl(name: str, other: bool) -> None:
    z, log_q, log_mu = pair(5)
    log_p = torch.log_softmax(z, -1)
    law = log_mu if other else log_p
    n = 20_000
    u = uniform(7, torch.arange(n), torch.zeros(n, dtype=torch.int64), kind=0)
    y = sample(law.expand(n, V), u)
    weight = importance_weight(log_p=log_p[y], behaviour_logp=law[y]) if other else None
    value = ESTIMATORS[name](log_p=log_p[y], log_q=log_q[y], weight=weight).value
    truth = kl(log_p=log_p, log_q=log_q)
    z_score = (value.mean() - truth) / (value.std() / math.sqrt(n))
    assert abs(z_score.item()) < 4
