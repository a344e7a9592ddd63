"""Slow truths about divergences that are summed over ids: Python floats, formulas as printed.

z: logits, q: teacher probabilities over the vocabulary; −inf logits have no mass. A gradient is a
complex step, f(z + ih)/h for h = 1e-150: exact to the last digits, and nobody differentiates.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Sequence

Law = Sequence[complex]
Result = tuple[float, list[float]]
Divergence = Callable[[Law, Law], complex]

STEP = 1e-150


def softmax(z: Sequence[complex]) -> list[complex]:
    top = max(x.real for x in z)
    mass = [cmath.exp(x - top) if x.real > -math.inf else 0j for x in z]
    total = sum(mass)
    return [m / total for m in mass]


def kl(p: Law, q: Law) -> complex:
    total = 0j
    for a, b in zip(p, q, strict=True):
        if a == 0:
            continue
        if b == 0:
            return complex(math.inf)
        total += a * cmath.log(a / b)
    return total


def mixture(share: float, a: Law, b: Law) -> list[complex]:
    """share·a + (1 − share)·b."""
    return [share * x + (1 - share) * y for x, y in zip(a, b, strict=True)]


def forward_kl(p: Law, q: Law) -> complex:
    return kl(q, p)


def jsd(p: Law, q: Law, beta: float) -> complex:
    m = mixture(beta, q, p)
    return beta * kl(q, m) + (1 - beta) * kl(p, m)


def skew_forward(p: Law, q: Law, alpha: float) -> complex:
    return kl(q, mixture(alpha, q, p))


def skew_reverse(p: Law, q: Law, alpha: float) -> complex:
    return kl(p, mixture(alpha, p, q))


def seen(law: Law, ids: Sequence[int], tail: str) -> list[complex]:
    """The masses of the events that are left of a law on the support `ids`."""
    inside = [complex(law[j]) for j in ids]
    if tail == "none":
        return inside
    if tail == "renormalise":
        return [x / sum(inside) for x in inside]
    assert tail == "bucket"
    return [*inside, sum((complex(law[j]) for j in range(len(law)) if j not in ids), 0j)]


def gradient(f: Callable[[Sequence[complex]], complex], z: Sequence[float]) -> list[float]:
    """∂f/∂z_j, 0 for ids without mass."""
    result = []
    for j in range(len(z)):
        if z[j] == -math.inf:
            result.append(0.0)
            continue
        moved = [complex(x, STEP if i == j else 0.0) for i, x in enumerate(z)]
        result.append(f(moved).imag / STEP)
    return result


def summed(
    divergence: Divergence,
    z: Sequence[float],
    q: Sequence[float],
    ids: Sequence[int] | None = None,
    tail: str = "none",
) -> Result:
    """Value and gradient in z of a divergence over the vocabulary, or on a support."""
    ids = range(len(z)) if ids is None else ids
    teacher = seen([complex(x) for x in q], ids, tail)

    def value(logits: Sequence[complex]) -> complex:
        return divergence(seen(softmax(logits), ids, tail), teacher)

    return value([complex(x) for x in z]).real, gradient(value, z)
