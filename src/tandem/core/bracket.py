"""Finding where an increasing function reaches a target, many rows at once, on the host.

Each row keeps a bracket [low, high] of its argument with the function's value and slope at both
ends. The next trial is the inverse cubic Hermite interpolant: the argument as a cubic of the value.
Shapes: A rows still searching. float64 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(slots=True)
class Bracket:
    """low, high: [A] arguments. g_low, g_high: [A] values, slope_low, slope_high: [A] slopes ≥ 0
    there. target: [A] the value sought, g_low ≤ target ≤ g_high."""

    low: Rows
    high: Rows
    g_low: Rows
    g_high: Rows
    slope_low: Rows
    slope_high: Rows
    target: Rows

    def propose(self) -> Rows:
        """The next argument to try, [A], inside the bracket.

        An inverse slope is limited to three times the secant: that keeps the cubic monotone
        (Fritsch and Carlson 1980), hence inside, even where a slope is 0 or rounding noise.
        """
        width, span = self.high - self.low, np.maximum(self.g_high - self.g_low, 1e-300)
        t = (self.target - self.g_low) / span
        # Slopes of the inverse in units of the secant: 1 for a straight line, at most 3.
        steep_low = 3.0 * width * self.slope_low
        steep_high = 3.0 * width * self.slope_high
        inverse_low = 3.0 * span / np.maximum(steep_low, span)
        inverse_high = 3.0 * span / np.maximum(steep_high, span)
        rest = 1.0 - t
        share = t * (rest * (rest * inverse_low + 3.0 * t - t * inverse_high) + t * t)
        return self.low + width * share

    def halve(self) -> Rows:
        """The middle of each bracket, [A]."""
        return 0.5 * (self.low + self.high)

    def shrink(self, *, at: Rows, g: Rows, slope: Rows, below: Flags) -> None:
        """Replace one end of each bracket: the low one where the value is `below` the target."""
        self.low = np.where(below, at, self.low)
        self.g_low = np.where(below, g, self.g_low)
        self.slope_low = np.where(below, slope, self.slope_low)
        self.high = np.where(below, self.high, at)
        self.g_high = np.where(below, self.g_high, g)
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
        )
