"""The reverse KL over the whole vocabulary, whose gradient is written by hand; gathering."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from oracles import objectives as oracle
from tandem.core.divergences import entropy, kl
from tandem.core.support import log_softmax_at, mass, reverse_kl_full

LN2, LN3 = math.log(2.0), math.log(3.0)


def rows(seed: int) -> tuple[Tensor, Tensor]:
    """float64 logits [N, V] and teacher log-probs [N, V]."""
    generator = torch.Generator().manual_seed(seed)
    z, a = 2.0 * torch.randn(2, 20, 13, generator=generator, dtype=torch.float64)
    return z, torch.log_softmax(a, -1)


def gradient(logits: Tensor, log_q: Tensor, weight: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    scored, _ = reverse_kl_full(logits=leaf, log_q=log_q)
    return torch.autograd.grad((weight * scored.surrogate).sum(), leaf)[0]


def autograd_gradient(logits: Tensor, log_q: Tensor, weight: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    value = kl(log_p=torch.log_softmax(leaf, -1), log_q=log_q)
    return torch.autograd.grad((weight * value).sum(), leaf)[0]


def test_value_gradient_and_entropy_match_the_numbers_worked_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/4, 3/4): l = ±ln 3, KL = ½ ln 3, p (l − KL) = ±⅜ ln 3.
    logits = torch.tensor([[LN3, 0.0]], dtype=torch.float64)
    log_q = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    scored, uncertainty = reverse_kl_full(logits=logits, log_q=log_q)
    assert scored.value.item() == pytest.approx(0.5 * LN3, abs=1e-15)
    assert uncertainty.item() == pytest.approx(2 * LN2 - 0.75 * LN3, abs=1e-15)
    actual = gradient(logits, log_q, torch.ones(1).double())[0].tolist()
    assert actual == pytest.approx([0.375 * LN3, -0.375 * LN3], abs=1e-15)


def test_value_and_gradient_match_the_naive_oracle() -> None:
    z, log_q = rows(1)
    value = reverse_kl_full(logits=z, log_q=log_q)[0].value
    actual = gradient(z, log_q, torch.ones(len(z)).double())
    for n in range(len(z)):
        expected = oracle.full(z[n].tolist(), log_q[n].tolist())
        assert value[n].item() == pytest.approx(expected[0], abs=1e-13)
        assert actual[n].tolist() == pytest.approx(expected[1], abs=1e-13)


def test_the_written_gradient_is_autograds_with_masked_ids_and_weights() -> None:
    z, log_q = rows(2)
    z[:, 3] = log_q[:, 3] = -torch.inf
    z[:5, 7] = -torch.inf  # masked by the student alone
    weight = torch.linspace(-1.0, 2.0, len(z), dtype=torch.float64)
    torch.testing.assert_close(gradient(z, log_q, weight), autograd_gradient(z, log_q, weight))
    log_p = torch.log_softmax(z, -1)
    scored, uncertainty = reverse_kl_full(logits=z, log_q=log_q)
    torch.testing.assert_close(scored.value, kl(log_p=log_p, log_q=log_q))
    torch.testing.assert_close(uncertainty, entropy(log_p))


def test_fp32_is_as_close_to_the_truth_as_autograd_is() -> None:
    z, log_q = rows(3)
    weight = torch.ones(len(z))
    truth = gradient(z, log_q, weight.double())
    ours = (gradient(z.float(), log_q.float(), weight).double() - truth).abs().max()
    theirs = (autograd_gradient(z.float(), log_q.float(), weight).double() - truth).abs().max()
    assert ours <= theirs + 2e-7


def test_an_id_that_only_the_teacher_masks_is_infinite_with_a_finite_gradient() -> None:
    z, log_q = rows(4)
    log_q[0, 2] = -torch.inf
    scored, _ = reverse_kl_full(logits=z, log_q=log_q)
    assert scored.value[0].item() == scored.surrogate[0].item() == math.inf
    assert scored.value[1:].isfinite().all()
    assert gradient(z, log_q, torch.ones(len(z)).double()).isfinite().all()


def test_the_inputs_are_left_as_they_were() -> None:
    z, log_q = rows(5)
    z_before, q_before = z.clone(), log_q.clone()
    gradient(z, log_q, torch.ones(len(z)).double())
    reverse_kl_full(logits=z, log_q=log_q)
    assert torch.equal(z, z_before) and torch.equal(log_q, q_before)


def test_log_softmax_at_is_the_log_softmax_of_those_ids_with_its_gradient() -> None:
    logits, _ = rows(12)
    ids = logits.topk(4).indices
    logits[:, 3] = -torch.inf
    ids[:, 0] = 3
    leaf = logits.clone().requires_grad_()
    whole = torch.log_softmax(leaf, -1).gather(-1, ids)
    torch.testing.assert_close(log_softmax_at(logits=leaf, ids=ids), whole)
    weights = torch.arange(ids.numel(), dtype=torch.float64).view(ids.shape)
    weights[:, 0] = 0.0
    dead = whole == -torch.inf
    (expected,) = torch.autograd.grad((whole.masked_fill(dead, 0.0) * weights).sum(), leaf)
    actual_logp = log_softmax_at(logits=leaf, ids=ids).masked_fill(dead, 0.0)
    (actual,) = torch.autograd.grad((actual_logp * weights).sum(), leaf)
    torch.testing.assert_close(actual, expected)


def test_mass_counts_masked_ids_as_nothing() -> None:
    assert mass(logp=torch.tensor([[0.5, 0.125, 0.0]]).log()).item() == pytest.approx(
        0.625, abs=1e-7
    )
