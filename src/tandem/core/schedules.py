"""Schedules as pure functions of the step, counted from 0 in optimiser steps taken.

They keep no state, so a resumed run continues them exactly.
"""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["constant", "cosine", "linear"]


def linear(start: float, end: float, step: int, horizon: int) -> float:
    """From `start` at step 0 to `end` at step `horizon` in a straight line, then `end`."""
    return end + (start - end) * _left(step, horizon)


def linear_to_zero(value: float, step: int, horizon: int) -> float:
    """value·(1 − k/K) for step k ≤ K = horizon, then 0: the budget of TRB (arXiv 2605.31159).

    A horizon of 0 is no schedule to speak of: 0 from the first step.
    """
    return linear(value, 0.0, step, horizon)


def cosine_to_zero(value: float, step: int, horizon: int) -> float:
    """½·value·(1 + cos(πk/K)) for step k ≤ K = horizon, then 0."""
    # Written with a square of a sine: exactly 0 at the horizon, without the rounding of 1 + cos π.
    return value * math.sin(0.5 * math.pi * _left(step, horizon)) ** 2


def learning_rate_multiplier(
    schedule: Shape,
    *,
    step: int,
    total_steps: int,
    warmup_steps: int,
    warmup: Literal["linear", "cosine"] = "cosine",
) -> float:
    """The factor on the learning rate at a step, in (0, 1].

    Warm-up: at step k < W = warmup_steps the fraction is (k + 1)/(W + 1), in a straight line or as
    ½(1 − cos πx); so no step is wasted at rate 0 and step W is the first at the full rate. Then
    constant, or falling over the remaining steps, linearly or as half a cosine, to what would be 0
    at step `total_steps`. The TRB paper uses a 15-step cosine warm-up, then a constant rate; where
    its first step starts is not stated, and taken so here.
    Raises ValueError for a warm-up longer than the run.
    """
    if warmup_steps > total_steps:
        raise ValueError(
            f"warmup_steps is {warmup_steps}, but the run has only {total_steps} steps: "
            "shorten the warm-up or lengthen the run"
        )
    if step < warmup_steps:
        x = (step + 1) / (warmup_steps + 1)
        return x if warmup == "linear" else math.sin(0.5 * math.pi * x) ** 2
    if schedule == "constant":
        return 1.0
    fall = linear_to_zero if schedule == "linear" else cosine_to_zero
    return fall(1.0, step - warmup_steps, total_steps - warmup_steps)


def _left(step: int, horizon: int) -> float:
    """The share of the horizon that is left, in [0, 1]."""
    assert step >= 0, f"steps count from 0, not {step}"
    if step >= horizon:
        return 0.0
    return 1.0 - step / horizon
