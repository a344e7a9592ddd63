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
        at_low = span / np.maximum(width * self.slope_low, TINY)
        at_high = span / np.maximum(width * self.slope_high, TINY)
        trial = self.low + width * _cubic((self.target - self.g_low) / span, at_low, at_high)
        bend = np.maximum(_bend(at_low), _bend(at_high))
        crooked = bend > CROOKED
        if crooked.any():
            flat = at_low[crooked] > MONOTONE
            some = self.keep(crooked)
            trial[crooked] = some._propose_crooked(trial[crooked], bend[crooked], flat)
        return trial

    def _propose_crooked(self, trial: Rows, bend: Rows, flat: Flags) -> Rows:
        """A better trial, where log g is straighter than g, or g is still `flat` and unknown."""
        width, known = self.high - self.low, self.g_low > self.noise
        # Relative slopes: those of log g.
        relative_low = self.slope_low / np.maximum(self.g_low, self.noise)
        relative_high = self.slope_high / self.g_high
        span = np.log(self.g_high / np.maximum(self.g_low, self.noise))
        at_low = span / np.maximum(width * relative_low, TINY)
        at_high = span / np.maximum(width * relative_high, TINY)
        straighter = known & (np.maximum(_bend(at_low), _bend(at_high)) < bend)
        drop = np.log(self.g_high / self.target)
        by_log = self.low + width * _cubic(1.0 - drop / span, at_low, at_high)
        # Newton's step from the high end on log g against the log of the argument.
        by_newton = self.high * np.exp(-drop / np.maximum(self.high * relative_high, TINY))
        far = ~known & flat & (by_newton > self.low)
        return np.where(straighter, by_log, np.where(far, by_newton, trial))

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


def _cubic(t: Rows, at_low: Rows, at_high: Rows) -> Rows:
    """The monotone cubic through (0, 0) and (1, 1) with these slopes there, at t in [0, 1]."""
    rest = 1.0 - t
    at_low, at_high = np.minimum(at_low, MONOTONE), np.minimum(at_high, MONOTONE)
    return t * (rest * (rest * at_low + 3.0 * t - t * at_high) + t * t)


def _bend(slope: Rows) -> Rows:
    """How far a slope is from the secant's, as a ratio ≥ 1."""
    return np.maximum(slope, 1.0 / np.maximum(slope, TINY))
