"""Slow truths about TrOPD: every token and every outcome of the gate in turn, in Python floats.

z: logits, q: teacher log-probs over the vocabulary, mu: the law that draws. Gradients are with
respect to z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from oracles.objectives import Result, Row, log_softmax, score, softmax


def trust(log_rho: float) -> float:
    """min(1, q/p)."""
    return min(1.0, math.exp(log_rho))


def total_variation(z: Row, q: Row) -> float:
    return 0.5 * math.fsum(abs(a - math.exp(b)) for a, b in zip(softmax(z), q, strict=True))


def forward_kl_on(z: Row, q: Row, ids: Sequence[int]) -> Result:
    """Σ_K q (log q − log p), nothing renormalised, and its gradient m_T p_j − q_j 1[j in K]."""
    log_p, p = log_softmax(z), softmax(z)
    value = math.fsum(math.exp(q[j]) * (q[j] - log_p[j]) for j in ids)
    m_t = math.fsum(math.exp(q[j]) for j in ids)
    inside = set(ids)
    return value, [m_t * p[j] - (math.exp(q[j]) if j in inside else 0.0) for j in range(len(z))]


def largest(q: Row, k: int) -> list[int]:
    return sorted(range(len(q)), key=lambda j: -q[j])[:k]


def outcomes(log_rho: float, gate: str, floor: float) -> list[tuple[float, bool]]:
    """(probability, trusted?) of each thing that may happen to a token."""
    if gate == "none":
        return [(1.0, log_rho > floor)]
    return [(trust(log_rho), True), (1.0 - trust(log_rho), False)]


def reward(log_rho: float, trusted: bool, *, outlier: str, floor: float, positive: bool) -> float:
    """What the policy gradient of this token rewards."""
    if trusted:
        found = log_rho
    elif outlier == "clip":
        found = max(log_rho, floor)
    else:
        found = 0.0
    return found + (log_rho if positive and log_rho > 0 else 0.0)


def mean_reward(log_rho: float, *, gate: str, outlier: str, floor: float, positive: bool) -> float:
    return math.fsum(
        chance * reward(log_rho, trusted, outlier=outlier, floor=floor, positive=positive)
        for chance, trusted in outcomes(log_rho, gate, floor)
    )


def baseline(z: Row, q: Row, *, gate: str, outlier: str, floor: float, positive: bool) -> float:
    """The mean reward of a token that the student draws."""
    log_p = log_softmax(z)
    return math.fsum(
        math.exp(log_p[v])
        * mean_reward(q[v] - log_p[v], gate=gate, outlier=outlier, floor=floor, positive=positive)
        for v in range(len(z))
    )


def trust_region(
    z: Row,
    q: Row,
    mass: Row,
    *,
    gate: str,
    outlier: str,
    top_k: int = 0,
    floor: float = 0.0,
    positive: bool = False,
    minus: float = 0.0,
) -> Result:
    """The expected loss and its gradient. mass: mu(v) times the weight of v, for every token v
    (on a partial support 0 elsewhere). minus: a baseline, which the value does not show."""
    log_p = log_softmax(z)
    away, away_gradient = forward_kl_on(z, q, largest(q, top_k))
    value, gradient = 0.0, [0.0] * len(z)
    for v in range(len(z)):
        log_rho = q[v] - log_p[v]
        for chance, trusted in outcomes(log_rho, gate, floor):
            share = mass[v] * chance
            found = reward(log_rho, trusted, outlier=outlier, floor=floor, positive=positive)
            value -= share * found
            step = score(z, {v: -share * (found - minus)})
            gradient = [a + b for a, b in zip(gradient, step, strict=True)]
            if not trusted and outlier == "forward_kl":
                value += share * away
                gradient = [a + share * b for a, b in zip(gradient, away_gradient, strict=True)]
    return value, gradient


def imitation(z: Row, y: int, weight: float) -> Result:
    """−weight · log p(y)."""
    value, gradient = -weight * log_softmax(z)[y], score(z, {y: -weight})
    return value, gradient
