"""Paired differences that are all the same: what n problems leave open, not certainty."""

from __future__ import annotations

import numpy as np
import pytest

from tandem.evaluation.intervals import paired_difference

# The upper Wilson bound of 0 in 30: z² / (30 + z²) with z = 1.959964.
OPEN = 0.113513


@pytest.mark.parametrize("difference", [0.0, 0.5, 1.0, -1.0])
def test_equal_differences_do_not_claim_certainty(difference: float) -> None:
    before = {str(i): max(0.0, -difference) for i in range(30)}
    after = {key: value + difference for key, value in before.items()}
    found = paired_difference(after, before)
    assert found.mean == difference
    assert found.low == pytest.approx(difference - OPEN * (1 + difference), abs=1e-6)
    assert found.high == pytest.approx(difference + OPEN * (1 - difference), abs=1e-6)


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
