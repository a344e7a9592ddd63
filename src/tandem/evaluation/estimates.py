"""What a set of graded completions says about a model, with intervals over problems.

Everything is keyed by problem, because completions of one problem depend on each other:
`grades` is problem -> the grade of each of its completions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tandem.evaluation.intervals import CONFIDENCE, Interval, mean_interval, t_quantile, wilson
from tandem.evaluation.majority import Majority, independent_draws, majority_at_k
from tandem.evaluation.ranking import auroc
from tandem.evaluation.repetition import looping_tail, repeats
from tandem.tasks.base import Grade

__all__ = [
    "Majority",
    "auroc",
    "looping_tail",
    "majority_at_k",
    "mean_length",
    "pass_at_k",
    "rate",
    "repeats",
    "solved_within",
]


def solved_within(k: int, *, samples: int, right: int) -> float:
    """Probability that k of `samples` completions, `right` of them right, hold a right one.

    1 − C(samples − right, k) / C(samples, k), unbiased for pass@k (arXiv 2107.03374, eq. 1), as a
    product of shares, so that no large number arises.
    """
    if not 1 <= k <= samples:
        raise ValueError(
            f"pass@{k} needs at least {max(k, 1)} completions of each problem, but there are "
            f"{samples}; lower k or add samples"
        )
    assert 0 <= right <= samples
    if samples - right < k:
        return 1.0
    wrong = np.arange(samples - right - k + 1, samples - right + 1)
    return float(1.0 - np.prod(wrong / (wrong + right)))


def pass_at_k(
    grades: Mapping[str, Sequence[Grade]], *, k: int, confidence: float = CONFIDENCE
) -> Interval:
    """Mean over problems of the unbiased pass@k; k = 1 is the mean of the shares right.

    Raises ValueError where a problem has fewer than k completions, or there is none.
    """
    counts = _counts(grades)
    scores = [
        solved_within(k, samples=len(given), right=sum(one.correct for one in given))
        for given in grades.values()
    ]
    return mean_interval(scores, samples=independent_draws(counts, k=k), confidence=confidence)


def rate(happened: Mapping[str, Sequence[bool]], *, confidence: float = CONFIDENCE) -> Interval:
    """Mean over problems of the share of completions in which something happened.

    For truncation, missing answers, loops: problem -> of each completion, whether it did.
    Raises ValueError where a problem has no completion, or there is no problem.
    """
    counts = _counts(happened)
    shares = [float(np.mean(marks)) for marks in happened.values()]
    return mean_interval(shares, samples=min(counts), confidence=confidence)


def mean_length(
    lengths: Mapping[str, Sequence[int]], *, limit: int, confidence: float = CONFIDENCE
) -> Interval:
    """Mean over problems of the mean length of their completions, with Student's t over problems.

    limit: the longest that a completion can be, in the unit of `lengths`. Where problems show no
    spread (a single one, or all at the limit) t would claim certainty: a share u of others may
    then have any length up to the limit, u the upper Wilson bound of 0 in n.
    Raises ValueError where a problem has no completion, or a length lies outside 0 to `limit`.
    """
    counts = _counts(lengths)
    odd = [one for given in lengths.values() for one in given if not 0 <= one <= limit]
    if odd:
        raise ValueError(f"lengths must lie between 0 and the limit {limit}, not at {odd[0]}")
    means = np.array([np.mean(given) for given in lengths.values()])
    mean = float(means.mean())
    if float(np.ptp(means)) == 0.0:
        u = wilson(0.0, len(counts), confidence=confidence).high
        return Interval(mean, (1 - u) * mean, (1 - u) * mean + u * limit)
    half = t_quantile(1 - confidence, len(means)) * float(means.std(ddof=1)) / math.sqrt(len(means))
    return Interval(mean, max(0.0, mean - half), min(float(limit), mean + half))


def _counts(given: Mapping[str, Sequence[object]]) -> list[int]:
    """How many completions each problem has."""
    counts = [len(completions) for completions in given.values()]
    if not counts or min(counts) == 0:
        empty = [problem for problem, completions in given.items() if not completions]
        raise ValueError(
            f"problem {empty[0]} has no completion; leave it out"
            if empty
            else "an estimate needs problems, but there is none; evaluate some"
        )
    return counts
