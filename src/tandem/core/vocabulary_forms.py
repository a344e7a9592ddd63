"""Divergences over the whole vocabulary with closed gradients in the student's logits.

Each takes logits and log_q [*, V] and returns (surrogate, value) and the student's entropy H(p),
nats, [*] each: the numbers that `core.divergences` gives for the log-softmax, with its conventions
for masked ids. The gradient is p (g − Σ_v p g) with g = ∂D/∂p written by hand, formed in the
forward; so one [*, V] tensor is kept where autograd would keep many. Backward runs once.

Mixtures are formed from the log-ratio r = log q − log p, as in log(m/p) = log(β e^r + 1 − β): where
the models agree this loses no digits to the size of log p, and never overflows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tandem.core.support import Scored, reverse_kl_full

# Stands for an infinite log-ratio, so that its product with a probability of 0 is 0 and not NaN.
_HUGE = 1e30

# p [*, V], r [*, V] (both may be overwritten), log_q -> value [*] and gradient [*, V].
_Form = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def forward_kl_full(*, logits: Tensor, log_q: Tensor) -> tuple[Scored, Tensor]:
    """KL(q‖p) = Σ_v q (log q − log p); gradient p Σ q − q."""
    return _apply(logits, log_q, _forward_kl)


def generalised_jsd_full(
    *, logits: Tensor, log_q: Tensor, beta: float, ends: Literal["special", "scaled"]
) -> tuple[Scored, Tensor]:
    """β·KL(q‖m) + (1−β)·KL(p‖m), m = βq + (1−β)p; g = (1−β)(log p − log m).

    `ends` as in `core.divergences.generalised_jsd`: at β = 0 and 1 both give KL(q‖p) and KL(p‖q);
    scaled divides by β(1−β), and keeps its digits near both ends.
    """
    assert 0.0 <= beta <= 1.0, f"a mixture weight of {beta}"
    if beta == 0.0:
        return forward_kl_full(logits=logits, log_q=log_q)
    if beta == 1.0:
        return reverse_kl_full(logits=logits, log_q=log_q)
    scale = 1.0 if ends == "special" else 1.0 / (beta * (1.0 - beta))
    return _apply(logits, log_q, partial(_jsd, beta=beta, scale=scale))


def skew_forward_kl_full(*, logits: Tensor, log_q: Tensor, alpha: float) -> tuple[Scored, Tensor]:
    """KL(q‖m), m = αq + (1−α)p, 0 <= α < 1; g = −(1−α) q/m (arXiv 2402.03898)."""
    assert 0.0 <= alpha < 1.0, f"a skew of {alpha}"
    if alpha == 0.0:
        return forward_kl_full(logits=logits, log_q=log_q)
    return _apply(logits, log_q, partial(_skew_forward, alpha=alpha))


def skew_reverse_kl_full(*, logits: Tensor, log_q: Tensor, alpha: float) -> tuple[Scored, Tensor]:
    """KL(p‖m), m = αp + (1−α)q, 0 <= α < 1; g = log p − log m − α p/m (arXiv 2402.03898)."""
    assert 0.0 <= alpha < 1.0, f"a skew of {alpha}"
    if alpha == 0.0:
        return reverse_kl_full(logits=logits, log_q=log_q)
    return _apply(logits, log_q, partial(_skew_reverse, alpha=alpha))


def _apply(logits: Tensor, log_q: Tensor, form: _Form) -> tuple[Scored, Tensor]:
    surrogate, entropy = _ClosedForm.apply(logits, log_q, form)
    return Scored(surrogate, surrogate.detach()), entropy


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, log_q: Tensor, form: _Form) -> tuple[Tensor, Tensor]:
        # In place wherever it can be: each [*, V] tensor saved is room for more tokens per chunk.
        log_p = logits - logits.amax(-1, keepdim=True)
        p = log_p.exp()
        total = p.sum(-1, keepdim=True)
        p.div_(total)
        log_p.sub_(total.log_())
        entropy = torch.special.entr(p).sum(-1)
        neither = (log_p == -torch.inf) & (log_q == -torch.inf)
        # Clamping turns ±inf into a large number and leaves a NaN what it is.
        log_ratio = log_p.neg_().add_(log_q).masked_fill_(neither, 0.0).clamp_(-_HUGE, _HUGE)
        value, gradient = form(p, log_ratio, log_q)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(entropy)
        return value, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides `ctx`
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].unsqueeze(-1), None, None


def _forward_kl(p: Tensor, log_ratio: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    missing = log_ratio == _HUGE  # the student masks what the teacher allows
    q = log_q.exp().masked_fill_(missing, 0.0)
    value = log_ratio.mul_(q).sum(-1).masked_fill(missing.any(-1), torch.inf)
    return value, p.mul_(q.sum(-1, keepdim=True)).sub_(q)


def _jsd(
    p: Tensor, log_ratio: Tensor, log_q: Tensor, *, beta: float, scale: float
) -> tuple[Tensor, Tensor]:
    to_teacher, to_student = math.log(beta), math.log1p(-beta)
    m_over_q = _log_sum(to_student - log_ratio, to_teacher)
    from_q = m_over_q.mul_(log_q.exp()).sum(-1).mul_(-beta * scale)
    m_over_p = _log_sum(log_ratio.add_(to_teacher), to_student)
    slope = m_over_p.mul_(p).mul_((beta - 1.0) * scale)
    return from_q + slope.sum(-1), _centred(slope, p)


def _skew_forward(
    p: Tensor, log_ratio: Tensor, log_q: Tensor, *, alpha: float
) -> tuple[Tensor, Tensor]:
    m_over_q = _log_sum(log_ratio.neg_().add_(math.log1p(-alpha)), math.log(alpha))
    value = -(log_q.exp() * m_over_q).sum(-1)
    slope = m_over_q.neg_().exp_().mul_(p).mul_(alpha - 1.0)
    return value, _centred(slope, p)


def _skew_reverse(
    p: Tensor, log_ratio: Tensor, log_q: Tensor, *, alpha: float
) -> tuple[Tensor, Tensor]:
    del log_q
    m_over_p = _log_sum(log_ratio.add_(math.log1p(-alpha)), math.log(alpha))
    share = m_over_p.neg().exp_().mul_(alpha)  # α p/m
    value = -(p * m_over_p).sum(-1)
    return value, _centred(m_over_p.add_(share).mul_(p).neg_(), p)


def _log_sum(term: Tensor, constant: float) -> Tensor:
    """log(e^term + e^constant), in place."""
    return torch.logaddexp(term, term.new_full((), constant), out=term)


def _centred(slope: Tensor, p: Tensor) -> Tensor:
    """p (g − Σ p g) from p g, in place: the gradient in the logits."""
    return slope.addcmul_(p, slope.sum(-1, keepdim=True), value=-1.0)
