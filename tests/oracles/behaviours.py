"""Slow truths about laws of the next token: Python floats and bisection on probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def normalise(weights: Row) -> list[float]:
    total = math.fsum(weights)
    return [w / total for w in weights]


def kl(p: Row, q: Row) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def tempered(p: Row, temperature: float) -> list[float]:
    return normalise([x ** (1.0 / temperature) for x in p])


def geometric(p: Row, q: Row, exponent: float) -> list[float]:
    return normalise([a ** (1.0 - exponent) * b**exponent for a, b in zip(p, q, strict=True)])


def largest_exponent(p: Row, q: Row, budget: float) -> float:
    """max{b in [0, 1] : KL(geometric(b)‖p) <= budget} by 60 halvings."""
    if budget <= 0.0:
        return 0.0
    if kl(q, p) <= budget:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if kl(geometric(p, q, middle), p) <= budget:
            low = middle
        else:
            high = middle
    return low


def arithmetic(p: Row, q: Row, weight: float) -> list[float]:
    return [weight * b + (1.0 - weight) * a for a, b in zip(p, q, strict=True)]


def likeliest(q: Row, k: int) -> set[int]:
    """The k likeliest ids; of equal ones the smaller."""
    return set(sorted(range(len(q)), key=lambda v: (-q[v], v))[:k])


def speculative(p: Row, q: Row, k: int, temperature: float) -> tuple[list[float], float]:
    """The law of one token of speculative distillation, and the chance of a replacement."""
    accepted = likeliest(q, k)
    replaced = math.fsum(a for v, a in enumerate(p) if v not in accepted)
    teacher = tempered(q, temperature)
    law = [(a if v in accepted else 0.0) + replaced * teacher[v] for v, a in enumerate(p)]
    return law, replaced


def longest_prefix(length: int, step: int, horizon: int) -> int:
    """½ L (1 + cos(πt/T)) tokens, rounded down; none once the horizon is reached."""
    if step >= horizon:
        return 0
    # The cosine's last digit must not cost a whole token.
    return math.floor(0.5 * length * (1 + math.cos(math.pi * step / horizon)) + 5e-10)
