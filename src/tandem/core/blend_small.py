"""The blend for a budget over few ids, in numpy: there a call costs more than what it computes.

Newton's method on G(β) = √(2 KL), which is nearly straight, in float64 and inside a bracket. A row
that this does not settle is left to `blend.py`; what a row comes out as depends on the row alone.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.blend_passes import MASKED
from tandem.core.blend_search import ABSOLUTE, RELATIVE
from tandem.core.bracket import Flags, Rows, cubic

Single = NDArray[np.float32]
Table = NDArray[np.float64]

FEW = 512
"""Vocabularies up to this size are solved here. They alone decide, not the number of rows: a
response must not depend on what it is batched with."""
# Elements of a block of rows: its tables stay in a CPU's cache.
BLOCK = 2**14
MAX_PASSES = 12
# The largest last step, in exponent times log-ratio: it costs no pass, for the moments foretell
# what it does but for its square. The KL before it has to be as close as this already.
STEP, CLOSE, NOISE = 3e-4, 1e-3, 1e-12


@dataclass(frozen=True, slots=True)
class Small:
    """exponent, kl, passes [N] and law [N, V] of the rows in `settled` [N]; others hold nothing."""

    exponent: Rows
    kl: Rows
    passes: Rows
    law: Single
    settled: Flags


def solve_small(student: Tensor, teacher: Tensor, budget: Rows) -> Small:
    """`solve_blend` for fp32 log-probs [N, V] on the CPU and budgets [N], as far as rows are
    ordinary: both models have the same ids, and Newton's method arrives."""
    p, q = student.detach().numpy(), teacher.detach().numpy()
    size = max(1, BLOCK // max(1, p.shape[-1]))
    if len(p) <= size:
        return _solve(p, q, budget)
    ends = range(0, len(p), size)
    parts = [_solve(p[i : i + size], q[i : i + size], budget[i : i + size]) for i in ends]
    return Small(
        np.concatenate([part.exponent for part in parts]),
        np.concatenate([part.kl for part in parts]),
        np.concatenate([part.passes for part in parts]),
        np.concatenate([part.law for part in parts]),
        np.concatenate([part.settled for part in parts]),
    )


def _solve(student: Single, teacher: Single, room: Rows) -> Small:
    # Where a row is out of the ordinary, its numbers are not used.
    with np.errstate(all="ignore"):
        p, q = student.astype(np.float64, order="C"), teacher.astype(np.float64, order="C")
        r, alike = _log_ratio(p, q)
        weight = np.exp(p)
        mass = weight.sum(-1)
        log_mass = np.log(mass)
        mean, variance = _moments(weight, r, mass)
        weight = np.exp(q, out=weight)
        mass_q = weight.sum(-1)
        mean_q, variance_q = _moments(weight, r, mass_q)
        top_kl = np.maximum(mean_q - np.log(mass_q) + log_mass, 0.0)
        top = np.sqrt(2 * top_kl)
        jeffreys = np.maximum(mean_q - mean, 0.0)
        start = _Start(log_mass, np.sqrt(variance), top, variance_q / top, jeffreys)
        at_top = (room > 0) & (top_kl <= room)
        search = (room > 0) & (top_kl > room)
        beta, kl, log_z, passes, found = _search(p, r, start, room, search)
        law = (p + beta[:, None] * r - log_z[:, None]).astype(np.float32)
    law[at_top], law[~(search | at_top)] = teacher[at_top], student[~(search | at_top)]
    settled = alike & np.isfinite(top_kl) & (found | ~search)
    exponent = np.where(search, beta, at_top)
    return Small(
        exponent, np.where(search, kl, np.where(at_top, top_kl, 0.0)), passes, law, settled
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """What the ends tell [N]: log Σ p, dG/dβ at 0, G and dG/dβ at 1, KL(q‖p) + KL(p‖q)."""

    log_mass: Rows
    slope: Rows
    top: Rows
    top_slope: Rows
    jeffreys: Rows


def _log_ratio(p: Table, q: Table) -> tuple[Table, Flags]:
    """log q − log p [N, V], 0 where both are masked, and which rows are masked alike [N].

    Masks become −∞ in p and q.
    """
    off_p, off_q = p < MASKED, q < MASKED
    if not (off_p.any() or off_q.any()):
        return q - p, np.ones(len(p), dtype=np.bool_)
    p[off_p], q[off_q] = -np.inf, -np.inf
    r = q - p
    r[off_p | off_q] = 0.0
    return r, (off_p == off_q).all(-1)


def _moments(weight: Table, r: Table, mass: Rows) -> tuple[Rows, Rows]:
    """Mean and variance of r [N] under weights of that sum; the weights are used up."""
    weight *= r
    mean = weight.sum(-1) / mass
    weight *= r
    return mean, np.maximum(weight.sum(-1) / mass - mean * mean, 0.0)


def _search(
    p: Table, r: Table, start: _Start, room: Rows, search: Flags
) -> tuple[Rows, Rows, Rows, Rows, Flags]:
    """Exponent, KL, log Σ p e^{βr} and passes [N], and where the exponent was found.

    search: the rows to look at; others stay at any exponent.
    """
    target = np.sqrt(2 * room)
    low, high = np.zeros(len(p)), np.ones(len(p))
    beta = cubic(target / start.top, start.top / start.slope, start.top / start.top_slope)
    beta = np.where(search & (beta > 0) & (beta < 1), beta, 0.5)
    passes, found, over = np.zeros(len(p)), np.zeros(len(p), dtype=np.bool_), ~search
    weight = np.empty_like(p)
    count = 0
    while True:
        np.multiply(r, beta[:, None], out=weight)
        weight += p
        np.exp(weight, out=weight)
        mass = weight.sum(-1)
        mean, variance = _moments(weight, r, mass)
        log_z = np.log(mass)
        kl = beta * mean - log_z + start.log_mass
        passes += ~over
        g = np.sqrt(2 * np.maximum(kl, 0.0))
        step = (target - g) * g / (beta * variance)
        small = np.abs(step) * (1.0 + start.jeffreys) <= STEP
        found |= ~over & small & (np.abs(kl - room) <= CLOSE * room + NOISE)
        over |= found
        count += 1
        if count == MAX_PASSES or over.all():
            break
        below = kl <= room
        low, high = np.where(below, beta, low), np.where(below, high, beta)
        trial = beta + step
        trial = np.where((trial > low) & (trial < high), trial, 0.5 * (low + high))
        # A row that is found keeps its exponent, whatever its neighbours still need.
        beta = np.where(over, beta, trial)
    # The last step, to a number that can be returned.
    near = np.where(found, beta + step, beta).astype(np.float32).astype(np.float64)
    delta = near - beta
    log_z = log_z + delta * mean + delta * delta * variance / 2
    kl = kl + (beta + near) / 2 * variance * delta
    # Log-ratios of thousands of nats feel the rounding; it may also end on an end.
    found &= np.abs(delta) * (1.0 + start.jeffreys) <= 2 * STEP
    found &= (near > 0.0) & (near < 1.0)
    found &= np.abs(kl - room) <= (RELATIVE * room + ABSOLUTE) / 2
    return near, np.maximum(kl, 0.0), log_z, passes, found
