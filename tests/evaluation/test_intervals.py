"""Intervals: table values, degenerate scores, and coverage with the problem as the unit."""

from __future__ import annotations

import numpy as np
import pytest

from tandem.evaluation.intervals import mean_interval, paired_difference, wilson


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


def test_t_interval_matches_the_table() -> None:
    # Four problems: mean 0.5, standard deviation 1/6·√... of {.25,.5,.5,.75} = 0.204124;
    # t(0.975, 3) = 3.182446.
    found = mean_interval([0.25, 0.5, 0.5, 0.75], samples=4)
    half = 3.182446 * 0.2041241 / 2
    assert found.low == pytest.approx(0.5 - half, abs=1e-6)
    assert found.high == pytest.approx(0.5 + half, abs=1e-6)


def test_equal_scores_do_not_claim_certainty() -> None:
    for score in (0.0, 1.0, 0.25):
        found = mean_interval([score] * 30, samples=16)
        assert found.high - found.low > 0.1
        assert 0.0 <= found.low <= score <= found.high <= 1.0
    single = mean_interval([0.5], samples=16)
    assert single.high - single.low > 0.5


def test_bounds_stay_inside_the_unit_interval() -> None:
    found = mean_interval([0.0, 0.0, 0.0, 1.0], samples=4)
    assert found.low == 0.0 and found.high <= 1.0


def coverage(interval_of, *, problems: int, samples: int, repeats: int) -> float:
    source = np.random.default_rng(0)
    hits = 0
    for _ in range(repeats):
        difficulty = source.beta(0.5, 0.5, size=problems)
        scores = source.binomial(samples, difficulty) / samples
        found = interval_of(scores.tolist())
        hits += found.low <= 0.5 <= found.high
    return hits / repeats


def test_problems_as_units_cover_and_samples_as_units_do_not() -> None:
    problems, samples = 30, 16
    honest = coverage(
        lambda s: mean_interval(s, samples=samples),
        problems=problems,
        samples=samples,
        repeats=2_000,
    )
    naive = coverage(
        lambda s: wilson(float(np.mean(s)), problems * samples),
        problems=problems,
        samples=samples,
        repeats=2_000,
    )
    assert 0.935 < honest < 0.965
    assert naive < 0.6


def test_one_sample_per_problem_covers() -> None:
    found = coverage(lambda s: mean_interval(s, samples=1), problems=100, samples=1, repeats=2_000)
    assert 0.93 < found < 0.97


def test_paired_difference_by_hand_and_on_equal_sides() -> None:
    before = {"a": 0.0, "b": 0.5, "c": 1.0}
    after = {"a": 0.5, "b": 0.5, "c": 1.0}
    found = paired_difference(after, before)
    # Differences .5, 0, 0: mean 1/6, s = .288675, t(0.975, 2) = 4.302653.
    half = 4.302653 * 0.2886751 / 3**0.5
    assert found.mean == pytest.approx(1 / 6)
    assert found.low == pytest.approx(1 / 6 - half, abs=1e-6)
    assert found.high == pytest.approx(1 / 6 + half, abs=1e-6)
    assert paired_difference(before, before).mean == 0.0


def test_pairing_different_problems_is_refused() -> None:
    with pytest.raises(ValueError, match="2 are on one side only"):
        paired_difference({"a": 1.0, "b": 0.0}, {"a": 1.0, "c": 0.0})
    with pytest.raises(ValueError, match="needs 2 problems or more, not 1"):
        paired_difference({"a": 1.0}, {"a": 1.0})
