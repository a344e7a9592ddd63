"""Confidence intervals whose unit is the problem.

Samples of one problem are not independent of each other: an interval over samples would be far too
narrow. Scores are per-problem means in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95


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
    z = float(ndtri(0.5 + confidence / 2))
    shrink = 1.0 + z * z / count
    centre = (mean + z * z / (2 * count)) / shrink
    half = z / shrink * math.sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
    return Interval(mean, min(max(0.0, centre - half), mean), max(min(1.0, centre + half), mean))


def mean_interval(
    scores: Sequence[float], *, samples: int, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of pass@1 from per-problem scores, each the mean of `samples` graded samples.

    One sample per problem: Wilson. Several: Student's t over problems, clipped to [0, 1]. Where
    t knows no spread (a single problem, or all scores equal) it would claim certainty: Wilson
    over problems instead. On few problems that are nearly all wrong or nearly all right the scores
    are skewed and t is too narrow (30 problems, mean 0.03: it covers 84 to 90 %).
    """
    assert len(scores) > 0
    values = np.asarray(scores, dtype=np.float64)
    mean = float(np.clip(values.mean(), 0.0, 1.0))
    if samples == 1 or len(values) == 1 or float(np.ptp(values)) == 0.0:
        return wilson(mean, len(values), confidence=confidence)
    half = _t_half_width(values, confidence)
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def paired_difference(
    after: Mapping[str, float], before: Mapping[str, float], *, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of mean(after − before) over the problems, by Student's t on the differences.

    Where all n differences are one and the same d, t would claim certainty. What n problems leave
    open is that a share u of others behaves differently, u the upper Wilson bound of 0 in n, and
    their differences can lie anywhere in [−1, 1]: d − u (1 + d) to d + u (1 − d).
    Raises ValueError unless both cover the same problems, at least two of them.
    """
    if after.keys() != before.keys():
        raise ValueError(
            f"a paired difference needs the same problems on both sides, but "
            f"{len(after.keys() ^ before.keys())} are on one side only: evaluate both on one set"
        )
    if len(after) < 2:
        raise ValueError(f"a paired difference needs 2 problems or more, not {len(after)}")
    differences = np.array([after[key] - before[key] for key in after])
    mean = float(differences.mean())
    if float(np.ptp(differences)) == 0.0:
        open_share = wilson(0.0, len(differences), confidence=confidence).high
        return Interval(mean, mean - open_share * (1 + mean), mean + open_share * (1 - mean))
    half = _t_half_width(differences, confidence)
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half))


def _t_half_width(values: np.ndarray, confidence: float) -> float:
    count = len(values)
    quantile = float(stdtrit(count - 1, 0.5 + confidence / 2))
    return quantile * float(values.std(ddof=1)) / math.sqrt(count)
