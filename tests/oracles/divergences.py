"""Divergences of one pair of distributions in plain Python, id by id, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence


def kl_of(log_p: Sequence[float], log_q: Sequence[float]) -> float:
    """Σ p (log p − log q); ids without mass under p are skipped, missing support is infinite."""
    total = 0.0
    for a, b in zip(log_p, log_q, strict=True):
        if a == -math.inf:
            continue
        if b == -math.inf:
            return math.inf
        total += math.exp(a) * (a - b)
    return total


def entropy_of(log_p: Sequence[float]) -> float:
    return -sum(math.exp(a) * a for a in log_p if a != -math.inf)


def jsd_of(log_p: Sequence[float], log_q: Sequence[float], beta: float) -> float:
    """β·KL(q‖M) + (1−β)·KL(p‖M) with M = βq + (1−β)p, through probabilities."""
    mixture = [
        beta * math.exp(b) + (1 - beta) * math.exp(a) for a, b in zip(log_p, log_q, strict=True)
    ]
    log_m = [math.log(m) if m > 0 else -math.inf for m in mixture]
    return beta * kl_of(log_q, log_m) + (1 - beta) * kl_of(log_p, log_m)
