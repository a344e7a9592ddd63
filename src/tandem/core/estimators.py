"""Reverse KL from one sampled token per prefix, in the forms whose expected gradient is right.

With l = log p(y) − log q(y) and y drawn from the student, the expectation of sg[l] ∇log p(y) is
the gradient of KL(p‖q). Three popular relatives are left out on purpose: autograd of l itself has
expected gradient 0; autograd of q/p − 1 − log(q/p) ("K3") follows the *forward* KL; and a KL
already summed over the vocabulary, used as the advantage of the sampled token, has expected
gradient 0 because it does not depend on that token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.core.support import Scored


def importance_weight(
    *, log_p: Tensor, behaviour_logp: Tensor, limit: float | None = None
) -> Tensor:
    """p(y)/mu(y) for tokens drawn from mu, detached: [*], [*] -> [*].

    It corrects the law of the token, not that of the prefix. It is unbiased where mu has mass
    wherever p has. A `limit` caps the weight, which bounds the variance and biases the gradient.
    """
    weight = torch.exp(log_p.detach() - behaviour_logp.detach())
    return weight if limit is None else weight.clamp(max=limit)


def clipped_weight(
    *, log_p: Tensor, rollout_logp: Tensor, behaviour_logp: Tensor, reward: Tensor, clip: float
) -> Tensor:
    """The weight of PPO's clipped ratio on tokens drawn from mu, detached: [*] each -> [*].

    The gradient of (p_0/mu) min(r A, clip(r, 1−c, 1+c) A) in p, r = p/p_0, is this weight times
    A ∇log p: p/mu while r is inside 1 ± c or moves against A, and 0 beyond (arXiv 1707.06347,
    eq. 7; the factor p_0/mu is that of a behaviour other than the student p_0). `reward`: A.
    """
    log_p = log_p.detach()
    ratio = torch.exp(log_p - rollout_logp)
    beyond = torch.where(reward > 0, ratio > 1.0 + clip, ratio < 1.0 - clip)
    return torch.exp(log_p - behaviour_logp).masked_fill(beyond & (reward != 0), 0.0)


def policy_gradient(*, log_p: Tensor, reward: Tensor, weight: Tensor | None = None) -> Scored:
    """REINFORCE with a reward per token: surrogate −sg[w R] log p(y), value −w R, [*] each.

    log_p: [*] log-prob of the drawn token, with gradient. reward: [*] R, detached here. weight: [*]
    importance weight w, None where y ~ p. A token that p cannot draw counts nothing; a reward of
    −inf (one that only the teacher masks) gives inf, without gradient.
    """
    reward = reward.detach()
    impossible = log_p == -torch.inf
    scale = torch.ones_like(reward) if weight is None else weight.detach()
    forbidden = (reward == -torch.inf) & ~impossible
    score = scale * -reward.masked_fill(forbidden | impossible, 0.0)
    surrogate = score * log_p.masked_fill(impossible, 0.0)
    return Scored(
        surrogate.masked_fill(forbidden, torch.inf), score.masked_fill(forbidden, torch.inf)
    )


def reverse_kl_k1(*, log_p: Tensor, log_q: Tensor, weight: Tensor | None = None) -> Scored:
    """K1 as a policy gradient: surrogate sg[w l] log p(y), value w l.

    log_p: [*] the current student's log-prob of the sampled token, with gradient. log_q: [*] the
    teacher's. weight: [*] importance weight w, None where y ~ p. The value is an unbiased estimate
    of KL(p‖q); single values may be negative. A token that p cannot draw counts nothing; one that
    only the teacher masks gives inf, without gradient.
    """
    log_ratio, scale, forbidden = _log_ratio(log_p, log_q, weight)
    score = scale * log_ratio.detach()
    surrogate = score * log_p.masked_fill(log_p == -torch.inf, 0.0)
    return Scored(
        surrogate.masked_fill(forbidden, torch.inf), score.masked_fill(forbidden, torch.inf)
    )


def reverse_kl_k2(*, log_p: Tensor, log_q: Tensor, weight: Tensor | None = None) -> Scored:
    """Autograd of K2: surrogate w ½ l², whose gradient is w l ∇log p(y), token for token.

    Arguments and value as in `reverse_kl_k1`: ½ l² has the right gradient but is a biased
    estimate of the divergence, so the logged value is w l.
    """
    log_ratio, scale, forbidden = _log_ratio(log_p, log_q, weight)
    return Scored(
        (scale * 0.5 * log_ratio.square()).masked_fill(forbidden, torch.inf),
        (scale * log_ratio.detach()).masked_fill(forbidden, torch.inf),
    )


def _log_ratio(
    log_p: Tensor, log_q: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """l with gradient (0 where either is masked), detached w, and where only the teacher masks."""
    no_p, no_q = log_p == -torch.inf, log_q == -torch.inf
    masked = no_p | no_q
    log_ratio = log_p.masked_fill(masked, 0.0) - log_q.masked_fill(masked, 0.0)
    scale = torch.ones_like(log_ratio) if weight is None else weight
    return log_ratio, scale.detach(), no_q & ~no_p
