"""How well a score tells right completions from wrong ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tandem.evaluation.intervals import CONFIDENCE, Interval, clustered_interval, wilson


def auroc(
    scored: Mapping[str, Sequence[tuple[float, bool]]], *, confidence: float = CONFIDENCE
) -> Interval:
    """Probability that a right completion scores above a wrong one, ties counting half.

    scored: problem -> (score, right) of each of its completions. All pairs of a right and a wrong
    completion count, of one problem or of two. The unit is the problem: the variance is that of
    the sums over problems of DeLong's placement values (Obuchowski, Biometrics 53, 1997), and the
    interval `clustered_interval` on as many units as there are problems with a right completion,
    or with a wrong one, whichever is less; on a single one, Wilson's.

    Raises ValueError where there is nothing to tell apart, and for scores that are not finite.
    """
    scores, right, problem = _flat(scored)
    if right.all() or not right.any():
        raise ValueError(
            f"AUROC needs right and wrong completions, but {int(right.sum())} of {len(right)} are "
            "right; give more problems or samples"
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            f"AUROC needs finite scores, but {int((~np.isfinite(scores)).sum())} of {len(scores)} "
            "are not; leave those completions out"
        )
    area, placements = _placements(scores, right)
    counts = np.where(right, right.sum(), (~right).sum())
    influence = np.bincount(problem, weights=(placements - area) / counts)
    problems = len(influence)
    units = min(len(np.unique(problem[right])), len(np.unique(problem[~right])))
    if units == 1:
        return wilson(area, 1, confidence=confidence)
    variance = float(influence @ influence) * problems / (problems - 1)
    return clustered_interval(area, variance=variance, units=units, error=1 - confidence)


def _flat(
    scored: Mapping[str, Sequence[tuple[float, bool]]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, whether right, and the problem's number, of all completions [n]."""
    rows = [
        (score, right, number)
        for number, completions in enumerate(scored.values())
        for score, right in completions
    ]
    scores = np.array([row[0] for row in rows], dtype=np.float64)
    return scores, np.array([row[1] for row in rows], bool), np.array([row[2] for row in rows], int)


def _placements(scores: np.ndarray, right: np.ndarray) -> tuple[float, np.ndarray]:
    """AUROC, and for each completion the share of the other kind that it is ordered well against.

    Halfway between how many of the others lie below and how many do not lie above.
    """
    placements = np.empty(len(scores))
    for kind in (right, ~right):
        others, own = np.sort(scores[~kind]), scores[kind]
        below = np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")
        placements[kind] = below / (2 * len(others))
    placements[~right] = 1 - placements[~right]
    return float(placements[right].mean()), placements
