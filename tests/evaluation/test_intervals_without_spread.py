"""Paired differences that are all the same: what n problems leave open, not certainty."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tandem.evaluation.intervals import paired_difference

# The upper bound of 0 in 30: t² / (30 + t²) with t(0.975, 29) = 2.045230.
OPEN = 0.1223699


@pytest.mark.parametrize("difference", [0.0, 1.0, -1.0])
def test_equal_differences_of_extremes_leave_open_what_both_sides_do(difference: float) -> None:
    before = {str(i): max(0.0, -difference) for i in range(30)}
    after = {key: value + difference for key, value in before.items()}
    found = paired_difference(after, before)
    assert found.mean == difference
    # Scores without spread have no correlation: the two sides' distances add in squares.
    ways = {0.0: (OPEN, OPEN), 1.0: (math.sqrt(2) * OPEN, 0.0), -1.0: (0.0, math.sqrt(2) * OPEN)}
    down, up = ways[difference]
    assert found.low == pytest.approx(difference - down, abs=1e-6)
    assert found.high == pytest.approx(difference + up, abs=1e-6)


def test_the_same_scores_on_both_sides_do_not_claim_certainty() -> None:
    for scores in ([0.0, 1.0] * 15, [0.25, 0.75] * 15, [0.5] * 30):
        side = {str(i): score for i, score in enumerate(scores)}
        found = paired_difference(side, side)
        assert found.mean == 0.0
        assert found.low < -0.02 and found.high > 0.02


def test_two_unlike_models_that_happen_to_agree_are_covered() -> None:
    """One problem in 40 separates the models; samples of 30 often show none."""
    source = np.random.default_rng(1)
    hits = 0
    for _ in range(2_000):
        gained = (source.random(30) < 1 / 40).astype(float)
        before = {str(i): 0.0 for i in range(30)}
        found = paired_difference({str(i): float(g) for i, g in enumerate(gained)}, before)
        hits += found.low <= 1 / 40 <= found.high
    assert hits / 2_000 > 0.95
