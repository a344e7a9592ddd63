"""Reverse KL on a support of K tokens, with the five ways to treat the mass that lies outside it.

Notation: p student, q teacher, m = sum_K p, m_T = sum_K q, sg stop-gradient. Each function takes
full-vocabulary log-probs at K ids, `log_p` and `log_q` [*, K] (their mass is at most one), and
returns (surrogate, value), [*] each. Truncated values may be negative and are never clamped.

The conventions for masked ids are those of `core.divergences`: an id that the student masks (as
when fewer than K ids are alive) adds nothing; one that only the teacher masks makes surrogate and
value inf, and that infinity carries no gradient. Nothing is ever NaN.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tandem.core.divergences import kl


class Scored(NamedTuple):
    """Per-token results: `surrogate` [*] carries the gradient, `value` [*] is detached."""

    surrogate: Tensor
    value: Tensor


def log_softmax_at(*, logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probs of a few ids: logits [*, V], ids [*, K] -> [*, K], with no [*, V] result kept."""
    return logits.gather(-1, ids) - torch.logsumexp(logits, dim=-1, keepdim=True)


def reverse_kl_full(*, logits: Tensor, log_q: Tensor) -> tuple[Scored, Tensor]:
    """KL(p‖q) over the whole vocabulary from the student's logits, and its entropy H(p).

    logits, log_q: [*, V] -> (surrogate, value) and the entropy (nats, detached), [*] each. The same
    number as `kl` of the log-softmax; its closed gradient p (log p − log q − KL) is formed in the
    forward, which keeps one [*, V] tensor where autograd would keep several. Backward runs once.
    """
    surrogate, entropy = _FullReverseKL.apply(logits, log_q)
    return Scored(surrogate, surrogate.detach()), entropy


class _FullReverseKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        # In place throughout: each [*, V] tensor saved leaves room for more tokens per chunk. The
        # maximum goes first, so that the logits' size costs no digits.
        log_p = logits - logits.amax(-1, keepdim=True)
        p = log_p.exp()
        total = p.sum(-1, keepdim=True)
        p.div_(total)
        log_p.sub_(total.log_())
        no_q = log_q == -torch.inf
        forbidden = (no_q & (log_p > -torch.inf)).any(-1)
        log_p.masked_fill_(p == 0, 0.0)
        entropy = -(p * log_p).sum(-1)
        log_ratio = log_p.sub_(log_q).masked_fill_(no_q, 0.0)
        value = (p * log_ratio).sum(-1, keepdim=True)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(log_ratio.sub_(value).mul_(p))
        ctx.mark_non_differentiable(entropy)
        return value.squeeze(-1).masked_fill(forbidden, torch.inf), entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides `ctx`
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].unsqueeze(-1), None


def _score(log_p: Tensor, log_q: Tensor, weight: Tensor) -> Scored:
    """sum_K sg[w (log p − log q)] log p, and sum_K w (log p − log q) as the value; w is [*, K]."""
    no_p, no_q = log_p == -torch.inf, log_q == -torch.inf
    masked = no_p | no_q
    safe_p = log_p.masked_fill(masked, 0.0)
    score = (weight * (safe_p - log_q.masked_fill(masked, 0.0))).detach()
    # The surrogate is inf too, so that whoever checks the loss sees it.
    forbidden = no_q & ~no_p
    surrogate = (score * safe_p).masked_fill(forbidden, torch.inf).sum(-1)
    return Scored(surrogate, score.masked_fill(forbidden, torch.inf).sum(-1))


def log_mass(logp: Tensor) -> Tensor:
    """[*, K] -> [*, 1] log of the support's mass; 0 for a support without mass, to stay finite."""
    empty = (logp == -torch.inf).all(-1, keepdim=True)
    return torch.logsumexp(logp.masked_fill(empty, 0.0), -1, keepdim=True).masked_fill(empty, 0.0)


def mass(*, logp: Tensor) -> Tensor:
    """The support's mass in [0, 1]: [*, K] -> [*]."""
    return logp.exp().sum(-1)


def reverse_kl_plain(*, log_p: Tensor, log_q: Tensor) -> Scored:
    """sum_K p (log p − log q), differentiated as it stands.

    The gradient is sum_K p (log p − log q) ∇log p + ∇m: the second part drives the student's
    mass off the support, also where both models agree. On the full vocabulary it vanishes.
    """
    surrogate = kl(log_p=log_p, log_q=log_q)
    return Scored(surrogate, surrogate.detach())


def reverse_kl_detached(*, log_p: Tensor, log_q: Tensor) -> Scored:
    """sum_K sg[p (log p − log q)] log p: the plain value's gradient without the drift ∇m."""
    return _score(log_p, log_q, log_p.exp())


def reverse_kl_weights_renormalised(*, log_p: Tensor, log_q: Tensor) -> Scored:
    """sum_K sg[(p/m)(log p − log q)] log p: the detached form divided by m.

    The log-ratio itself is not renormalised. The value is sum_K (p/m)(log p − log q), the
    student's mean log-ratio on the support. TRB (arXiv 2605.31159) cites code that trains so.
    """
    return _score(log_p, log_q, torch.exp(log_p - log_mass(log_p)))


def reverse_kl_renormalised(*, log_p: Tensor, log_q: Tensor) -> Scored:
    """KL between both models' laws conditioned on the support: exact on K, no drift.

    Says nothing about how much mass lies on the support, and is identically 0 for K = 1.
    """
    return reverse_kl_plain(log_p=log_p - log_mass(log_p), log_q=log_q - log_mass(log_q))


def reverse_kl_bucket(*, log_p: Tensor, log_q: Tensor) -> Scored:
    """The plain form plus (1−m) log((1−m)/(1−m_T)): the true divergence of a coarser partition.

    All tokens outside the support count as one event, so the value is >= 0 and the gradient has
    no drift.
    """
    plain = reverse_kl_plain(log_p=log_p, log_q=log_q).surrogate
    tail_p, tail_q = tail_mass(log_p), tail_mass(log_q)
    surrogate = plain + (tail_p * (tail_p.log() - tail_q.log())).to(plain.dtype)
    return Scored(surrogate, surrogate.detach())


def tail_mass(logp: Tensor) -> Tensor:
    """1 − m as [*], at least the input's machine epsilon.

    1 − m cancels as m nears 1: it is formed as −expm1(log m) in float64 from the K log-probs.
    Below epsilon the inputs' own rounding is all that is left, and one floor for both models
    turns their ratio into 1 instead of 0/0.
    """
    empty = (logp == -torch.inf).all(-1, keepdim=True)
    tail = -torch.expm1(log_mass(logp.double()))
    floor = torch.finfo(logp.dtype).eps
    return torch.where(empty, 1.0, tail.clamp(min=floor)).squeeze(-1)
