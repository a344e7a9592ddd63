"""Finding where increasing functions reach their targets, many rows at once, on the host.

Each row keeps a bracket [low, high] of its argument with the value g and the slope of its function
at both ends. The next trial is an inverse cubic Hermite interpolant: the argument as a cubic of g,
or of log g where that is straighter. Shapes: A rows still searching. float64 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
Flags = NDArray[np.bool_]

# An inverse slope beyond this many times the secant, or below its reciprocal, is worth a second
# look; beyond three times, the cubic would leave the bracket (Fritsch and Carlson 1980).
CROOKED, MONOTONE = 2.0, 3.0
# How much of the bracket a straight line from one end may cross.
NEAR = 0.5
TINY = 1e-150


@dataclass(slots=True)
class Bracket:
    """low, high: [A] arguments. g_low, g_high: [A] values ≥ 0, slope_low, slope_high: [A] slopes
    ≥ 0 there. target: [A] the value sought, g_low ≤ target ≤ g_high. Values below `noise` say
    that the function is small but not how small."""

    low: Rows
    high: Rows
    g_low: Rows
    g_high: Rows
    slope_low: Rows
    slope_high: Rows
    target: Rows
    noise: float

    def propose(self) -> Rows:
        """The next argument to try, [A], inside the bracket."""
        width, span = self.high - self.low, self.g_high - self.g_low
        t = (self.target - self.g_low) / span
        at_low = span / np.maximum(width * self.slope_low, TINY)
        at_high = span / np.maximum(width * self.slope_high, TINY)
        share = cubic(t, at_low, at_high)
        crooked = _bend(at_low, at_high) > CROOKED
        if crooked.any():
            some = self.keep(crooked)
            share[crooked] = some._share(t[crooked], at_low[crooked], at_high[crooked])
        return self.low + width * share

    def _share(self, t: Rows, at_low: Rows, at_high: Rows) -> Rows:
        """Where in the bracket to try, in [0, 1], for rows on which the cubic of g is strained."""
        width, known = self.high - self.low, self.g_low > self.noise
        # Relative slopes: those of log g.
        relative_low = self.slope_low / np.maximum(self.g_low, self.noise)
        relative_high = self.slope_high / self.g_high
        span = np.log(self.g_high / np.maximum(self.g_low, self.noise))
        drop = np.log(self.g_high / self.target)
        log_low = span / np.maximum(width * relative_low, TINY)
        log_high = span / np.maximum(width * relative_high, TINY)
        straighter = known & (_bend(log_low, log_high) < _bend(at_low, at_high))
        share = _near_or_cubic(
            np.where(straighter, 1.0 - drop / span, t),
            np.where(straighter, log_low, at_low),
            np.where(straighter, log_high, at_high),
        )
        # Where g has not begun to rise, Newton from above on log g against the log of the argument.
        by_newton = self.high * np.exp(-drop / np.maximum(self.high * relative_high, TINY))
        far = ~known & (at_low > MONOTONE) & (by_newton > self.low)
        return np.where(far, (by_newton - self.low) / width, share)

    def halve(self) -> Rows:
        """The middle of each bracket, [A]."""
        return 0.5 * (self.low + self.high)

    def shrink(self, *, at: Rows, g: Rows, slope: Rows, below: Flags) -> None:
        """Replace one end of each bracket: the low one where the value is `below` the target."""
        self.low, self.high = np.where(below, at, self.low), np.where(below, self.high, at)
        self.g_low, self.g_high = np.where(below, g, self.g_low), np.where(below, self.g_high, g)
        self.slope_low = np.where(below, slope, self.slope_low)
        self.slope_high = np.where(below, self.slope_high, slope)

    def keep(self, rows: Flags) -> Bracket:
        """The brackets of these rows alone."""
        return Bracket(
            low=self.low[rows],
            high=self.high[rows],
            g_low=self.g_low[rows],
            g_high=self.g_high[rows],
            slope_low=self.slope_low[rows],
            slope_high=self.slope_high[rows],
            target=self.target[rows],
            noise=self.noise,
        )


def cubic(t: Rows, at_low: Rows, at_high: Rows) -> Rows:
    """The monotone cubic through (0, 0) and (1, 1) with these slopes there, at t in [0, 1]."""
    rest = 1.0 - t
    at_low, at_high = np.minimum(at_low, MONOTONE), np.minimum(at_high, MONOTONE)
    return t * (rest * (rest * at_low + 3.0 * t - t * at_high) + t * t)


def _near_or_cubic(t: Rows, at_low: Rows, at_high: Rows) -> Rows:
    """The cubic, or a straight line from the end close by whose slope the cubic would have cut.

    Cutting it there would make every further step fall short by the same factor.
    """
    from_low, from_high = t * at_low, (1.0 - t) * at_high
    share = cubic(t, at_low, at_high)
    share = np.where((at_low > MONOTONE) & (from_low < NEAR), from_low, share)
    return np.where((at_high > MONOTONE) & (from_high < NEAR), 1.0 - from_high, share)


def _bend(at_low: Rows, at_high: Rows) -> Rows:
    """How far the slopes are from the secant's, as a ratio ≥ 1."""
    most, least = np.maximum(at_low, at_high), np.minimum(at_low, at_high)
    return np.maximum(most, 1.0 / np.maximum(least, TINY))
