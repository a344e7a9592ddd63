"""Divergences and entropies over the last dimension, from log-probabilities.

Conventions, everywhere: 0·log 0 = 0, so an id without mass under the first argument costs nothing
and receives no gradient; a divergence is +inf where its first argument has mass and its second has
none, and that infinity carries no gradient, so the gradients of the other ids stay finite.
`reverse_kl` is KL(student‖teacher) everywhere in this project.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

NEG_INF = -math.inf


def kl(*, log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p‖q) = Σ_v p(v)(log p(v) − log q(v)) in nats.

    log_p, log_q: [*, V] normalised log-probabilities, −inf where there is no mass.
    Returns [*]. Differentiable in both arguments. Truncated inputs may give negative values;
    nothing is clamped.
    """
    return _terms(log_p=log_p, log_q=log_q).sum(-1)


def reverse_kl(*, student_logp: Tensor, teacher_logp: Tensor) -> Tensor:
    """KL(student‖teacher) in nats: [*, V], [*, V] → [*]."""
    return kl(log_p=student_logp, log_q=teacher_logp)


def forward_kl(*, student_logp: Tensor, teacher_logp: Tensor) -> Tensor:
    """KL(teacher‖student) in nats: [*, V], [*, V] → [*]."""
    return kl(log_p=teacher_logp, log_q=student_logp)


def entropy(log_p: Tensor) -> Tensor:
    """H(p) = −Σ_v p(v) log p(v) in nats: [*, V] → [*]; masked ids (−inf) count nothing."""
    # Both factors are made finite *before* the product: 0·(−inf) would be nan forwards and
    # backwards, and a `where` after the product only hides the forward half.
    safe = log_p.masked_fill(log_p == NEG_INF, 0.0)
    return -(log_p.exp() * safe).sum(-1)


def generalised_jsd(
    *,
    log_p: Tensor,
    log_q: Tensor,
    beta: float,
    ends: Literal["special", "scaled"],
) -> Tensor:
    """Generalised Jensen-Shannon divergence of student p and teacher q, in nats.

    β·KL(q‖M) + (1−β)·KL(p‖M) with M = βq + (1−β)p (arXiv 2306.13649). That formula is 0 for every
    p and q at β = 0 and β = 1, so what the ends mean has to be said:
      "special": the formula inside; KL(q‖p) at β = 0 and KL(p‖q) at β = 1 exactly. This is what
        published configurations mean by 0 = forward and 1 = reverse, and it is discontinuous there.
      "scaled": the formula divided by β(1−β), whose limits at the ends are those same divergences:
        continuous, at the price of another scale inside (four times the JSD at β = ½). Rounding
        is magnified by 1/β(1−β): in fp32 keep β at 0, at 1, or 1e-3 away from both.

    log_p, log_q: [*, V] normalised, −inf where there is no mass. beta in [0, 1].
    Returns [*]. Raises ValueError for β outside [0, 1].
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta is {beta}, but a mixture weight lies between 0 and 1: choose one")
    if beta == 0.0:
        return kl(log_p=log_q, log_q=log_p)
    if beta == 1.0:
        return kl(log_p=log_p, log_q=log_q)
    log_m = _log_mixture(log_p=log_p, log_q=log_q, beta=beta)
    value = beta * kl(log_p=log_q, log_q=log_m) + (1 - beta) * kl(log_p=log_p, log_q=log_m)
    return value if ends == "special" else value / (beta * (1 - beta))


def skew_kl(*, log_p: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """KL(p‖αp + (1−α)q) in nats (DistiLLM, arXiv 2402.03898): [*, V], [*, V] → [*].

    With the models exchanged it is KL(q‖αq + (1−α)p). α = 0 gives KL(p‖q); for any larger α the
    value is at most −log α, also where q has no mass. Differentiable in both arguments.
    Raises ValueError for α outside [0, 1).
    """
    if not 0.0 <= alpha < 1.0:
        raise ValueError(f"alpha is {alpha}, but a skew lies in [0, 1), where 1 leaves nothing")
    if alpha == 0.0:
        return kl(log_p=log_p, log_q=log_q)
    return kl(log_p=log_p, log_q=_log_mixture(log_p=log_q, log_q=log_p, beta=alpha))


def _terms(*, log_p: Tensor, log_q: Tensor) -> Tensor:
    """p(log p − log q) per id [*, V], with the conventions of this file."""
    no_p = log_p == NEG_INF
    no_q = log_q == NEG_INF
    either = no_p | no_q
    difference = log_p.masked_fill(either, 0.0) - log_q.masked_fill(either, 0.0)
    return (log_p.exp() * difference).masked_fill(no_q & ~no_p, math.inf)


def _log_mixture(*, log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """log(βq + (1−β)p) [*, V] for 0 < β < 1, −inf (and no gradient) where both are masked."""
    neither = (log_p == NEG_INF) & (log_q == NEG_INF)
    # logaddexp(−inf, −inf) has a nan gradient: such ids are taken out first and put back after.
    mixed = torch.logaddexp(
        log_q.masked_fill(neither, 0.0) + math.log(beta),
        log_p.masked_fill(neither, 0.0) + math.log1p(-beta),
    )
    return mixed.masked_fill(neither, NEG_INF)
