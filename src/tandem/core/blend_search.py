"""The search for the exponents of rows whose budget lies strictly between the ends.

Shapes: N rows, A rows still searching, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from tandem.core.blend_passes import Index, Pair, blend_moments, write_laws
from tandem.core.bracket import MONOTONE, Bracket, Flags, Rows

# Relative and absolute tolerance on the KL spent. fp32 sums have a noise floor of about 2e-7, so
# the search stops a little inside what is promised; below NOISE_KL no digit of a KL is relied on.
RELATIVE, ABSOLUTE = 1e-3, 5e-7
NOISE, NOISE_KL = 2e-7, 2e-6
# After these many passes every other one halves the bracket; after the last, the feasible end.
HALVE_AFTER, MAX_PASSES = 5, 24
# The largest last step, in exponent times log-ratio: it costs no pass.
STEP = 1e-3


@dataclass(frozen=True, slots=True)
class Result:
    """What is found for each row, [N] each: the exponent, the KL spent, the passes it took."""

    exponent: Rows
    spent: Rows
    passes: Rows


def search(
    pair: Pair,
    rows: Index,
    *,
    room: Rows,
    allowed: Rows,
    dtype: torch.dtype,
    result: Result,
) -> None:
    """Find the exponents of `rows`, strictly between the ends, and write their laws.

    room: [N] the budget left for the search once the common support is paid for; allowed: [N] the
    whole of it. dtype: the precision of the passes.
    """
    found = _Found(*(np.zeros(len(rows)) for _ in range(4)))
    live, bracket = np.arange(len(rows)), _first_bracket(pair, rows, room[rows])
    first = _first_trial(pair, rows, room[rows], bracket)
    for count in range(1, MAX_PASSES + 1):
        halve = count > HALVE_AFTER and count % 2 == 0
        beta = bracket.halve() if halve else bracket.propose() if count > 1 else first
        beta = _inside(beta, bracket, pair.p.dtype)
        at = rows[live]
        log_z, mean, variance = blend_moments(pair, at, beta, dtype=dtype)
        spent = beta * mean - log_z + pair.log_mass[at]
        below = spent <= room[at]
        close = np.abs(spent - room[at]) <= RELATIVE * allowed[at] + ABSOLUTE - NOISE
        trial = beta
        # Close is not the end of the road: where the search stops must not depend on rounding.
        delta = np.zeros(len(at))
        if dtype == torch.float32:
            delta = _step(room[at] - spent, beta, variance, allowed=close, ratio=pair.jeffreys[at])
        beta = beta + delta
        log_z = log_z + delta * mean + delta * delta * variance / 2
        # What is kept is always feasible: a trial above the budget counts only if it is close.
        found.keep(live, below | close, beta, spent + trial * variance * delta, log_z)
        beta = trial
        found.passes[live] += 1
        # A bracket without a number inside is as narrow as it gets: its feasible end is kept.
        go_on = ~(close | (beta == bracket.low) | (beta == bracket.high))
        if not go_on.any():
            break
        g = np.sqrt(2 * np.maximum(spent, 0.0))
        bracket.shrink(at=beta, g=g, slope=beta * variance / np.maximum(g, 1e-150), below=below)
        if not go_on.all():
            live, bracket = live[go_on], bracket.keep(go_on)
    result.exponent[rows] = found.exponent
    result.spent[rows] = np.where(found.exponent > 0, found.spent + pair.lost[rows], 0.0)
    result.passes[rows] = found.passes
    write_laws(pair, rows, found.exponent, found.log_z, dtype=dtype)


def _step(left: Rows, beta: Rows, variance: Rows, *, allowed: Flags, ratio: Rows) -> Rows:
    """Newton's step to the budget, dKL/dβ = β Var, where it is so small that its square leaves
    nothing to see; else none. ratio: the scale of the log-ratios, nats: moments move with it."""
    slope = beta * variance
    step = left / np.where(slope > 0.0, slope, np.inf)
    small = allowed & (np.abs(step) * (1.0 + ratio) <= STEP) & (beta + step < 1.0)
    small &= beta + step > 0.0
    # To a number that the law can be written with.
    return np.where(
        small, _representable(beta + np.where(small, step, 0.0), torch.float32) - beta, 0.0
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """The best feasible trial of each row so far, [N] each; exponent 0 until there is one."""

    exponent: Rows
    spent: Rows
    log_z: Rows
    passes: Rows

    def keep(self, live: Index, which: Flags, beta: Rows, spent: Rows, log_z: Rows) -> None:
        rows = live[which]
        self.exponent[rows] = beta[which]
        self.spent[rows] = np.maximum(spent[which], 0.0)
        self.log_z[rows] = log_z[which]


def _first_bracket(pair: Pair, rows: Index, room: Rows) -> Bracket:
    """Exponents 0 and 1 with G = √(2 KL) and its slope at both."""
    return Bracket(
        low=np.zeros(len(rows)),
        high=np.ones(len(rows)),
        g_low=np.zeros(len(rows)),
        g_high=np.sqrt(2 * pair.top_kl[rows]),
        slope_low=pair.slope[rows],
        slope_high=pair.top_slope[rows],
        target=np.sqrt(2 * room),
        noise=math.sqrt(2 * NOISE_KL),
    )


def _first_trial(pair: Pair, rows: Index, room: Rows, bracket: Bracket) -> Rows:
    """The cubic's trial, or, where G starts too flat for a cubic, that of a two-token model.

    There p and q are sure of different tokens a, b: μ_β switches from one to the other, with
    log-odds x − D for x = βJ, D = KL(q‖p) and J = D + KL(p‖q). Before the switch,
    KL(μ_β‖p) = e^{−D}((x − 1)eˣ + 1), here solved for x by Newton's method on logarithms.
    """
    trial = bracket.propose()
    flat = MONOTONE * bracket.slope_low < bracket.g_high
    if flat.any():
        top_kl, jeffreys = pair.top_kl[rows][flat], pair.jeffreys[rows][flat]
        wanted = np.log(room[flat]) + top_kl
        x = np.maximum(wanted, 1.0)
        for _ in range(4):
            growth = x - 1.0 + np.exp(-x)
            x = np.maximum(x - (x + np.log(growth) - wanted) * growth / x, 0.1)
        trial[flat] = np.minimum(x / jeffreys, 0.9)
    return trial


def _inside(beta: Rows, bracket: Bracket, dtype: torch.dtype) -> Rows:
    """Trials as numbers of the precision in which they are returned, off the ends if possible."""
    beta = _representable(beta, dtype)
    at_end = (beta <= bracket.low) | (beta >= bracket.high)
    if at_end.any():
        beta = np.where(at_end, _representable(bracket.halve(), dtype), beta)
    return beta


def _representable(beta: Rows, dtype: torch.dtype) -> Rows:
    return beta if dtype == torch.float64 else beta.astype(np.float32).astype(np.float64)
