"""Intervals: values worked by hand, scores without spread, what they may not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tandem.evaluation.intervals import (
    clustered_interval,
    mean_interval,
    paired_difference,
    wilson,
)


def test_wilson_matches_values_worked_by_hand() -> None:
    # z = 1.95996; 0/30: z²/(n+z²) = 3.8415/33.8415.
    zero = wilson(0.0, 30)
    assert (zero.low, zero.high) == (0.0, pytest.approx(0.113513, abs=1e-6))
    half = wilson(0.5, 10)
    assert (half.low, half.high) == (
        pytest.approx(0.236593, abs=1e-6),
        pytest.approx(0.763407, abs=1e-6),
    )
    full = wilson(1.0, 30)
    assert (full.low, full.high) == (pytest.approx(1 - 0.113513, abs=1e-6), 1.0)


def test_an_interval_over_problems_matches_values_worked_by_hand() -> None:
    # Mean 1/2, n s² = 1/6, n m (1 − m) = 1: dispersion (1/6 + 1/4) / (1 + 1/4) = 1/3, so 4 problems
    # are worth 12 draws. With t(0.975, 3) = 3.182446, t² = 10.127965:
    # half = t / (1 + t²/12) · √(0.25/12 + t²/576) = 1.725841 · 0.196002.
    found = mean_interval([0.25, 0.5, 0.5, 0.75], samples=8)
    assert found.low == pytest.approx(0.5 - 0.338268, abs=2e-6)
    assert found.high == pytest.approx(0.5 + 0.338268, abs=2e-6)


def test_problems_that_are_equally_hard_count_each_sample() -> None:
    # Dispersion (0 + 1/4) / (30 · 3/16 + 1/4) = 0.0426 is below 1/16: 480 draws; t = 2.045230.
    found = mean_interval([0.25] * 30, samples=16)
    shrink = 1 + 2.045230**2 / 480
    half = 2.045230 / shrink * math.sqrt(0.1875 / 480 + 2.045230**2 / (4 * 480**2))
    assert found.high - found.low == pytest.approx(2 * half, abs=1e-6)


def test_all_wrong_and_all_right_say_as_much_as_one_sample_of_each_problem() -> None:
    # t²/(n + t²) with t = 2.045230: hardly more than Wilson's 0.113513.
    wrong = mean_interval([0.0] * 30, samples=16)
    assert (wrong.mean, wrong.low, wrong.high) == (0.0, 0.0, pytest.approx(0.122369, abs=1e-6))
    right = mean_interval([1.0] * 30, samples=16)
    assert (right.mean, right.low, right.high) == (1.0, pytest.approx(1 - 0.122369, abs=1e-6), 1.0)


def test_problems_all_right_or_all_wrong_are_worth_one_draw_each() -> None:
    # Mean 1/2, n s² = 5/18 · 10 > n m (1 − m): kept at 10 draws. t(0.975, 9) = 2.262157.
    found = mean_interval([0.0, 1.0] * 5, samples=16)
    half = 2.262157 / (1 + 2.262157**2 / 10) * math.sqrt(0.25 / 10 + 2.262157**2 / 400)
    assert found.low == pytest.approx(0.5 - half, abs=1e-6)


def test_one_sample_or_one_problem_takes_wilson() -> None:
    assert mean_interval([1.0, 0.0, 0.0], samples=1) == wilson(1 / 3, 3)
    assert mean_interval([0.5], samples=16) == wilson(0.5, 1)
    assert mean_interval([0.0], samples=4) == wilson(0.0, 1)


def test_bounds_stay_inside_the_unit_interval_and_hold_the_mean() -> None:
    source = np.random.default_rng(2)
    for problems in (2, 3, 30):
        for mean in (0.0, 0.02, 0.5, 1.0):
            scores = source.binomial(4, mean, size=problems) / 4
            found = mean_interval(scores.tolist(), samples=4)
            assert 0.0 <= found.low <= found.mean <= found.high <= 1.0
            assert found.high - found.low > 0.05


def test_wrong_for_right_mirrors_the_interval() -> None:
    scores = [0.0, 0.0, 0.25, 0.75]
    found = mean_interval(scores, samples=4)
    mirrored = mean_interval([1 - s for s in scores], samples=4)
    assert mirrored.low == pytest.approx(1 - found.high)
    assert mirrored.high == pytest.approx(1 - found.low)


def test_more_confidence_is_wider_and_order_does_not_matter() -> None:
    scores = [0.0, 0.1, 0.9, 0.3]
    narrow, wide = (mean_interval(scores, samples=10, confidence=c) for c in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    again = mean_interval(scores[::-1], samples=10, confidence=0.8)
    assert (again.low, again.high) == (pytest.approx(narrow.low), pytest.approx(narrow.high))


def test_paired_difference_by_hand() -> None:
    before = {"a": 0.0, "b": 0.5, "c": 1.0}
    after = {"a": 0.5, "b": 0.5, "c": 1.0}
    found = paired_difference(after, before)
    # t(0.975, 2) = 4.302653. Before: n s² = 3/4 = n m (1 − m), 3 draws, 0.5 ± 0.463829.
    # After: n s² = 1/4, n m (1 − m) = 2/3, dispersion 6/11, 5.5 draws: [0.104776, 0.971572].
    # Cross product 1/4; correlation 0.25 / √((1/2 + 1/16) (1/6 + 1/16)) = 0.696311.
    low, high, half, r = 0.104776, 0.971572, 0.463829, 0.696311
    down = math.sqrt((2 / 3 - low) ** 2 - 2 * r * (2 / 3 - low) * half + half**2)
    up = math.sqrt((high - 2 / 3) ** 2 - 2 * r * (high - 2 / 3) * half + half**2)
    assert found.mean == pytest.approx(1 / 6)
    assert found.low == pytest.approx(1 / 6 - down, abs=1e-5)
    assert found.high == pytest.approx(1 / 6 + up, abs=1e-5)


def test_swapping_the_sides_mirrors_the_difference() -> None:
    source = np.random.default_rng(3)
    before = {str(i): float(s) for i, s in enumerate(source.beta(0.1, 4.9, size=30))}
    after = {key: min(1.0, score + 0.1) for key, score in before.items()}
    found, swapped = paired_difference(after, before), paired_difference(before, after)
    assert (swapped.low, swapped.high) == (pytest.approx(-found.high), pytest.approx(-found.low))
    reordered = dict(reversed(before.items()))
    again = paired_difference(after, reordered)
    assert (again.low, again.high) == (pytest.approx(found.low), pytest.approx(found.high))


def test_on_many_problems_the_difference_is_students_t() -> None:
    source = np.random.default_rng(4)
    before = source.beta(2, 2, size=2_000)
    after = np.clip(before + source.normal(0.02, 0.2, size=2_000), 0, 1)
    found = paired_difference(by_problem(after), by_problem(before))
    apart = after - before
    half = 1.961 * apart.std(ddof=1) / math.sqrt(2_000)
    assert (found.high - found.low) / (2 * half) == pytest.approx(1.0, abs=0.02)


def by_problem(scores: np.ndarray) -> dict[str, float]:
    return {str(i): float(score) for i, score in enumerate(scores)}


def test_pairing_different_problems_is_refused() -> None:
    with pytest.raises(ValueError, match="2 are on one side only"):
        paired_difference({"a": 1.0, "b": 0.0}, {"a": 1.0, "c": 0.0})
    with pytest.raises(ValueError, match="needs 2 problems or more, not 1"):
        paired_difference({"a": 1.0}, {"a": 1.0})


def test_a_clustered_share_takes_its_units_from_its_variance() -> None:
    # 40 units, variance 3 · 0.25 / 40 of the mean 1/2: dispersion (30 + 1/4) / (10 + 1/4), hence
    # 40 · 10.25 / 30.25 = 13.553719 draws; t(0.975, 39) = 2.022691.
    found = clustered_interval(0.5, variance=0.25 * 3 / 40, units=40, error=0.05)
    draws, t = 13.553719, 2.022691
    half = t / (1 + t * t / draws) * math.sqrt(0.25 / draws + t * t / (4 * draws**2))
    assert found.low == pytest.approx(0.5 - half, abs=1e-6)
    assert found.high == pytest.approx(0.5 + half, abs=1e-6)
