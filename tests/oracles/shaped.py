"""Slow truths about rewards of one token and the targets behind them: Python floats, loops.

z: logits, p, q, ref: probabilities over the vocabulary. Every gradient is in z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from oracles.jsd import Result, gradient, kl, softmax

Row = Sequence[float]


def probabilities(z: Row) -> list[float]:
    return [x.real for x in softmax([complex(x) for x in z])]


def normalised(weights: Row) -> list[float]:
    total = math.fsum(weights)
    return [w / total for w in weights]


def veto_target(p: Row, q: Row, beta: float) -> list[float]:
    return normalised([b * a**beta for a, b in zip(p, q, strict=True)])


def veto_reward(p: float, q: float, beta: float) -> float:
    return math.log(q) - (1 - beta) * math.log(p)


def extrapolated_target(q: Row, ref: Row, scale: float) -> list[float]:
    return normalised([b**scale * r ** (1 - scale) for b, r in zip(q, ref, strict=True)])


def extrapolated_reward(p: float, q: float, ref: float, scale: float) -> float:
    return scale * (math.log(q) - math.log(ref)) - (math.log(p) - math.log(ref))


def proximal_reward(p: float, q: float, alpha: float) -> float:
    return math.log(alpha * (q / p) + 1 - alpha)


def to_fixed_target(z: Row, target: Row, *, forward: bool = False) -> Result:
    """KL(p‖target), or KL(target‖p), the target held fixed: value and gradient."""

    def value(logits: Sequence[complex]) -> complex:
        p, fixed = softmax(logits), [complex(x) for x in target]
        return kl(fixed, p) if forward else kl(p, fixed)

    return value([complex(x) for x in z]).real, gradient(value, z)


def policy_gradient(
    z: Row, reward: Sequence[float], share: Sequence[float] | None = None
) -> Result:
    """−Σ_v p_v s_v R_v and −Σ_v p_v s_v R_v ∇log p_v, over the ids that p can draw; s is the share
    that each token's weight leaves of it."""
    p = probabilities(z)
    terms = [
        0.0 if p[v] == 0.0 else -p[v] * (1.0 if share is None else share[v]) * reward[v]
        for v in range(len(z))
    ]
    total = math.fsum(terms)
    return total, [terms[j] - p[j] * total for j in range(len(z))]
