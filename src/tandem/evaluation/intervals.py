"""Confidence intervals whose unit is the problem.

Samples of one problem are not independent of each other: an interval over samples would be far too
narrow. Scores are per-problem means in [0, 1].

Both intervals start from Wilson's: a clustered mean is treated as a proportion of as many
independent draws as have its variance (the effective sample size of Korn & Graubard, Survey
Methodology 24, 1998), with Student's t in place of z (compared by Dean & Pagano, J. Survey
Statistics and Methodology 3, 2015). As published that still covers too little where nearly all
problems score 0, because the few that would not are often missing from the sample and their
variance with them. So one problem more, answered all right or all wrong with equal chance, counts
towards the variance, in the spirit of Agresti & Coull (American Statistician 52, 1998); this last
step is ours. How all of them cover, by simulation: benchmarks/coverage.py. The limit are
problems of two kinds with none between: where 5 % are always solved and the others score 2 %, it
covers 97 % with 30 problems but 89 % with 40; 12 % of such samples hold no solved problem at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95
# The variance of a problem that is answered all right or all wrong with equal chance.
UNSEEN = 0.25
# Such a problem separates two models less often than it is missed by both: a quarter of it.
UNSEEN_APART = UNSEEN / 4


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its two-sided confidence bounds."""

    mean: float
    low: float
    high: float


def wilson(mean: float, count: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion over `count` independent problems.

    Never empty: 0 of 30 gives [0, 0.11]. (Wilson, JASA 22, 1927.)
    """
    assert count > 0 and 0.0 <= mean <= 1.0
    return _score_interval(mean, count, quantile=float(ndtri(0.5 + confidence / 2)))


def mean_interval(
    scores: Sequence[float], *, samples: int, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of pass@1 from per-problem scores, each the mean of `samples` graded samples.

    One sample per problem, or a single problem: Wilson. Otherwise Wilson's with t and the
    effective sample size: n problems of dispersion ρ are worth n / ρ draws, with
    ρ = (n s² + 1/4) / (n m (1 − m) + 1/4), s² the variance between scores and m their mean, kept
    between 1 / samples (problems equally hard) and 1 (each all right or all wrong). Scores that
    are all 0 or all 1 have ρ = 1: they say as much as one sample of each.
    """
    assert len(scores) > 0 and samples > 0
    values = np.asarray(scores, dtype=np.float64)
    if samples == 1 or len(values) == 1:
        mean = float(np.clip(values.mean(), 0.0, 1.0))
        return wilson(mean, len(values), confidence=confidence)
    return _interval_of(values, error=1 - confidence, least=1 / samples)


def paired_difference(
    after: Mapping[str, float], before: Mapping[str, float], *, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of mean(after − before) over the problems, each scored on both sides in [0, 1].

    The two sides' intervals put together by their correlation over problems (Newcombe, Statistics
    in Medicine 17, 1998, method 10, for binary scores; Zou & Donner, ibid. 27, 2008, in general):
    with a side's distances from mean to bound l and u, the lower bound is the difference less
    √(l₁² − 2 r l₁ u₀ + u₀²). Skewed scores skew it, and equal scores on both sides do not claim
    certainty: 1/16 joins each sum of squares below r, for problems that would tell the sides apart.

    Raises ValueError unless both cover the same problems, at least two of them.
    """
    if after.keys() != before.keys():
        raise ValueError(
            f"a paired difference needs the same problems on both sides, but "
            f"{len(after.keys() ^ before.keys())} are on one side only: evaluate both on one set"
        )
    if len(after) < 2:
        raise ValueError(f"a paired difference needs 2 problems or more, not {len(after)}")
    first = np.array([before[key] for key in after], dtype=np.float64)
    second = np.array(list(after.values()), dtype=np.float64)
    return difference_interval(second, first, error=1 - confidence)


def difference_interval(after: np.ndarray, before: np.ndarray, *, error: float) -> Interval:
    """`paired_difference` of scores [n] in one order; error: 1 − confidence."""
    assert after.shape == before.shape and len(after) > 1
    one, two = (_interval_of(side, error=error, least=0.0) for side in (before, after))
    apart_one, apart_two = before - before.mean(), after - after.mean()
    squares = [float(apart @ apart) + UNSEEN_APART for apart in (apart_one, apart_two)]
    correlation = float(apart_one @ apart_two) / math.sqrt(squares[0] * squares[1])
    difference = two.mean - one.mean
    down = _together(two.mean - two.low, one.high - one.mean, correlation)
    up = _together(two.high - two.mean, one.mean - one.low, correlation)
    return Interval(difference, difference - down, difference + up)


def clustered_interval(
    mean: float, *, variance: float, units: int, error: float, most: float = math.inf
) -> Interval:
    """Interval of a share from the variance of its estimate over `units` independent units.

    mean: the share, in [0, 1]. variance: of `mean`, clustering included. most: how much worse
    than one independent draw a unit may be counted.
    """
    return _dispersed(mean, squares=units**2 * variance, units=units, error=error, most=most)


def t_quantile(error: float, count: int) -> float:
    """Student's two-sided quantile for `count` units; error: 1 − confidence."""
    return -float(stdtrit(count - 1, error / 2))


def _interval_of(values: np.ndarray, *, error: float, least: float) -> Interval:
    # Sums of tenths may pass 1 by a rounding error.
    mean = float(np.clip(values.mean(), 0.0, 1.0))
    squares = len(values) * float(values.var(ddof=1))
    return _dispersed(mean, squares=squares, units=len(values), error=error, least=least, most=1.0)


def _dispersed(
    mean: float,
    *,
    squares: float,
    units: int,
    error: float,
    least: float = 0.0,
    most: float,
) -> Interval:
    room = units * mean * (1 - mean)
    dispersion = min(max((squares + UNSEEN) / (room + UNSEEN), least), most)
    return _score_interval(mean, units / dispersion, quantile=t_quantile(error, units))


def _score_interval(mean: float, count: float, *, quantile: float) -> Interval:
    squared = quantile * quantile
    shrink = 1.0 + squared / count
    centre = (mean + squared / (2 * count)) / shrink
    half = quantile / shrink * math.sqrt(mean * (1 - mean) / count + squared / (4 * count * count))
    return Interval(mean, min(max(0.0, centre - half), mean), max(min(1.0, centre + half), mean))


def _together(one: float, other: float, correlation: float) -> float:
    """The distance to a difference's bound from its two sides'; rounding may pass below zero."""
    return math.sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))
