"""The blend for a budget by 60 halvings of [0, 1], one row at a time, in numpy float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float64]


def normalised(logp: Row) -> Row:
    """log-probs [V] that sum to one."""
    top = logp.max()
    return logp - (top + np.log(np.exp(logp - top).sum()))


def row_kl(log_p: Row, log_q: Row) -> float:
    """KL(p‖q) of one row [V], term by term where p has mass."""
    total = 0.0
    for a, b in zip(log_p.tolist(), log_q.tolist(), strict=True):
        if a != -np.inf:
            total += np.exp(a) * (a - b)
    return total


def blend_row(log_p: Row, log_q: Row, beta: float) -> Row:
    """log μ_β [V] on the common support, normalised; the student itself at exponent 0."""
    if beta == 0.0:
        return log_p
    common = (log_p > -np.inf) & (log_q > -np.inf)
    logits = np.full_like(log_p, -np.inf)
    logits[common] = (1 - beta) * log_p[common] + beta * log_q[common]
    return normalised(logits)


def spent(log_mu: Row, log_p: Row) -> float:
    """KL(μ‖p) in nats, as a sum over the ids where μ has mass."""
    held = log_mu > -np.inf
    if (log_p[held] == -np.inf).any():
        return float("inf")
    return float((np.exp(log_mu[held]) * (log_mu[held] - log_p[held])).sum())


def bisect_row(log_p: Row, log_q: Row, budget: float) -> tuple[float, float, Row]:
    """(β, KL(μ_β‖p), log μ_β) of the largest feasible β in [0, 1]."""
    log_p, log_q = normalised(log_p), normalised(log_q)
    if budget <= 0 or not ((log_p > -np.inf) & (log_q > -np.inf)).any():
        return 0.0, 0.0, log_p
    whole = blend_row(log_p, log_q, 1.0)
    if spent(whole, log_p) <= budget:
        return 1.0, spent(whole, log_p), whole
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if spent(blend_row(log_p, log_q, middle), log_p) <= budget:
            low = middle
        else:
            high = middle
    # Where even the smallest exponent overspends, `low` has crept towards 0 without leaving it.
    law = blend_row(log_p, log_q, low)
    return low, spent(law, log_p) if low > 0 else 0.0, law
