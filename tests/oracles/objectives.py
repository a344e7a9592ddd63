"""Slow truths about reverse KL: Python floats, loops, formulas as printed, gradients by hand.

z: logits, q: teacher log-probs over the vocabulary, ids: the support. Every gradient is with
respect to z, from ∇log p_j = e_j − p. Ids with p = 0 are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]
Result = tuple[float, list[float]]


def log_softmax(z: Row) -> list[float]:
    top = max(z)
    total = math.fsum(math.exp(x - top) for x in z)
    return [x - top - math.log(total) for x in z]


def softmax(z: Row) -> list[float]:
    return [math.exp(x) for x in log_softmax(z)]


def score(z: Row, coefficients: dict[int, float]) -> list[float]:
    """Σ_j c_j ∇log p_j."""
    p = softmax(z)
    total = math.fsum(coefficients.values())
    return [coefficients.get(j, 0.0) - total * p[j] for j in range(len(z))]


def mass_gradient(z: Row, ids: Sequence[int]) -> list[float]:
    """∇m, m = Σ_K p."""
    p = softmax(z)
    return score(z, {j: p[j] for j in ids})


def forward_kl_gradient(z: Row, q: Row) -> list[float]:
    """∇KL(q‖p) = p − q."""
    return [a - math.exp(b) for a, b in zip(softmax(z), q, strict=True)]


def _alive(z: Row, q: Row, ids: Sequence[int]) -> dict[int, tuple[float, float]]:
    """id -> (p, log p − log q) on the support."""
    logp = log_softmax(z)
    return {j: (math.exp(logp[j]), logp[j] - q[j]) for j in ids if logp[j] > -math.inf}


def full(z: Row, q: Row) -> Result:
    return detached(z, q, range(len(z)))


def plain(z: Row, q: Row, ids: Sequence[int]) -> Result:
    value, without_drift = detached(z, q, ids)
    drift = mass_gradient(z, ids)
    return value, [a + b for a, b in zip(without_drift, drift, strict=True)]


def detached(z: Row, q: Row, ids: Sequence[int]) -> Result:
    terms = {j: p * ratio for j, (p, ratio) in _alive(z, q, ids).items()}
    return math.fsum(terms.values()), score(z, terms)


def weights_renormalised(z: Row, q: Row, ids: Sequence[int]) -> Result:
    value, gradient = detached(z, q, ids)
    m = math.fsum(p for p, _ in _alive(z, q, ids).values())
    return value / m, [g / m for g in gradient]


def renormalised(z: Row, q: Row, ids: Sequence[int]) -> Result:
    """The full KL of the game in which only the support exists."""
    inner_q = log_softmax([q[j] for j in ids])
    value, inner = full([z[j] for j in ids], inner_q)
    gradient = [0.0] * len(z)
    for j, g in zip(ids, inner, strict=True):
        gradient[j] = g
    return value, gradient


def bucket(z: Row, q: Row, ids: Sequence[int]) -> Result:
    """The full KL of K + 1 events, the last of them everything off the support."""
    value, without_drift = detached(z, q, ids)
    p = softmax(z)
    outside = [j for j in range(len(z)) if j not in set(ids)]
    tail_p = math.fsum(p[j] for j in outside)
    tail_q = math.fsum(math.exp(q[j]) for j in outside)
    if tail_p == 0.0:
        return value, without_drift
    ratio = math.log(tail_p / tail_q)
    tail = mass_gradient(z, outside)
    gradient = [a + ratio * b for a, b in zip(without_drift, tail, strict=True)]
    return value + tail_p * ratio, gradient


def weighted(z: Row, q: Row, weight: Row) -> Result:
    """Σ_v p_v w_v l_v and Σ_v p_v w_v l_v ∇log p_v: a sampled token's reverse KL, each token's
    term kept with the share w_v. Weights 1 give the reverse KL itself."""
    alive = _alive(z, q, range(len(z)))
    terms = {j: p * weight[j] * ratio for j, (p, ratio) in alive.items()}
    return math.fsum(terms.values()), score(z, terms)
