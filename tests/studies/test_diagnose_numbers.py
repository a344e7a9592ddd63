"""Token means with the problem as the unit, curves over positions, histograms."""

from __future__ import annotations

import numpy as np
import pytest

from tandem.studies.diagnostics_numbers import (
    CHANCE,
    EXPONENT,
    MOST_BINS,
    NATS,
    RATIO,
    Scale,
    Tokens,
    by_position,
    curve_of_rows,
    histogram,
    quantiles_by_position,
    token_means,
)


def tokens_of(*problems: list[float], name: str = "x") -> Tokens:
    """One response to each problem, with these values at its tokens."""
    return Tokens(
        problem=np.repeat(np.arange(len(problems)), [len(own) for own in problems]),
        position=np.concatenate([np.arange(len(own)) for own in problems]),
        columns={name: np.concatenate([np.array(own) for own in problems])},
    )


def test_a_token_mean_worked_by_hand() -> None:
    # Sums 4 and 5 of 2 and 1 tokens: the mean is 3, the residuals 4 − 2·3 and 5 − 1·3.
    tokens = tokens_of([1.0, 3.0], [5.0])
    (point,) = token_means(tokens.columns["x"], tokens.problem, np.zeros(3, int))
    assert (point.mean, point.problems) == (3.0, 2)
    assert point.variance == pytest.approx(2 / 1 * (4 + 4) / 3**2)
    found = tokens.mean("x", RATIO)
    # Student's t with one degree of freedom: 12.706 at 95 %.
    assert found.high - 3.0 == pytest.approx(12.7062 * np.sqrt(16 / 9), rel=1e-4)
    assert 3.0 - found.low == pytest.approx(found.high - 3.0)


def test_bounds_do_not_pass_what_the_number_can_be() -> None:
    tokens = tokens_of([0.0, 0.5], [0.5], [0.0])
    assert tokens.mean("x", RATIO).low < 0.0
    assert tokens.mean("x", NATS).low == 0.0
    found = tokens.mean("x", CHANCE)
    assert 0.0 < found.low < found.mean < found.high < 1.0
    assert tokens_of([1.0], [1.0]).mean("x", EXPONENT).high == 1.0


def test_the_mean_is_of_tokens_and_not_of_responses() -> None:
    tokens = tokens_of([1.0] * 9, [0.0])
    assert tokens.mean("x", RATIO).mean == pytest.approx(0.9)


@pytest.mark.parametrize("scale", [RATIO, CHANCE])
def test_the_interval_covers_the_mean_as_often_as_it_says(scale: Scale) -> None:
    rng = np.random.default_rng(0)
    trials, problems, covered = 2000, 40, 0
    for _ in range(trials):
        # Longer responses have other values: a mean over responses would be another number.
        lengths = rng.integers(2, 12, problems)
        chance = 0.1 + 0.05 * lengths
        own = np.clip(rng.normal(chance, 0.1), 0.0, 1.0)
        values = [(rng.random(n) < p).astype(float) for n, p in zip(lengths, own, strict=True)]
        found = tokens_of(*map(list, values)).mean("x", scale)
        covered += found.low <= TRUTH <= found.high
    assert covered / trials > 0.93


# Σ n · (0.1 + 0.05 n) / Σ n over the lengths 2 … 11; clipping at 0 and 1 touches hardly any.
TRUTH = sum(n * (0.1 + 0.05 * n) for n in range(2, 12)) / sum(range(2, 12))


def test_a_curve_over_places_worked_by_hand() -> None:
    curve = by_position(tokens_of([1.0, 2.0, 7.0], [3.0, 4.0]), "x", RATIO)
    assert (curve.unit, curve.x) == ("nats per token", "token")
    assert [(x, mean) for x, mean, _, _ in curve.points] == [(0.0, 2.0), (1.0, 3.0), (2.0, 7.0)]
    assert curve.points[0][2] is not None
    # One problem alone got that far.
    assert curve.points[2][2:] == (None, None)


def test_many_places_are_taken_together_and_none_is_lost() -> None:
    length = 3 * MOST_BINS - 1
    values = [float(i) for i in range(length)]
    curve = by_position(tokens_of(values, values), "x", RATIO)
    assert len(curve.points) == MOST_BINS
    # Bins of three: the first holds the places 0, 1 and 2, around 1; the last has two.
    assert curve.points[0][:2] == (1.0, 1.0) and curve.points[1][:2] == (4.0, 4.0)
    assert curve.points[-1][1] == pytest.approx((length - 2 + length - 1) / 2)


def test_quantiles_over_places_are_those_of_the_tokens_there() -> None:
    rng = np.random.default_rng(1)
    problems = [list(rng.random(n)) for n in (3, 5, 4, 5)]
    curves = quantiles_by_position(tokens_of(*problems), "x", EXPONENT)
    for label, share in (("10 %", 0.1), ("median", 0.5), ("90 %", 0.9)):
        for place in range(5):
            there = [own[place] for own in problems if len(own) > place]
            x, mean, low, high = curves[label].points[place]
            assert (x, low, high) == (place, None, None)
            assert mean == pytest.approx(np.quantile(there, share))


def test_a_histogram_counts_every_token_once() -> None:
    values = np.array([0.0, 0.01, 0.5, 1.0, 1.0])
    found = histogram(values, EXPONENT)
    assert found["unit"] == "exponent" and len(found["edges"]) == len(found["counts"]) + 1
    assert (found["edges"][0], found["edges"][-1]) == (0.0, 1.0)
    assert sum(found["counts"]) == 5 and found["counts"][-1] == 2 and found["counts"][0] == 2
    assert sum(histogram(np.zeros(3), NATS)["counts"]) == 3
    assert sum(histogram(np.array([-1e-9, 2.0]), NATS)["counts"]) == 2


def test_a_logged_metric_is_its_own_curve_without_the_nulls() -> None:
    rows = [{"step": 0}, {"step": 1, "a": 2.0}, {"step": 2, "a": None}, {"step": 3, "a": 4}]
    curve = curve_of_rows(rows, "a", unit="1")
    assert curve.as_json() == {
        "unit": "1",
        "x": "optimiser step",
        "points": [
            {"x": 1.0, "mean": 2.0, "low": None, "high": None},
            {"x": 3.0, "mean": 4.0, "low": None, "high": None},
        ],
    }
