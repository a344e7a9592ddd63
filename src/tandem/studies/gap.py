"""How much of the distance to its teacher a student has made up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tandem.evaluation.intervals import Interval

Z_95 = 1.959964


def gap_recovered(
    *, teacher: Mapping[str, float], before: Mapping[str, float], after: Mapping[str, float]
) -> Interval:
    """(after − before) / (teacher − before) with a 95 % interval over problems.

    Each mapping is problem id -> score in [0, 1]. The interval is the delta method's for a ratio
    of two means that are paired by problem: with R the ratio and d_i = (after_i − before_i) −
    R (teacher_i − before_i), R ± z · sd(d) / (√n · |mean(teacher − before)|). It supposes a gap
    that is many of its own standard errors wide.

    Raises ValueError unless all three cover the same problems and the teacher is the better one.
    """
    if not teacher.keys() == before.keys() == after.keys():
        raise ValueError("the gap needs teacher, before and after on the same problems")
    low, mid, high = (np.array([score[k] for k in teacher]) for score in (before, after, teacher))
    gap = float((high - low).mean())
    if gap <= 0:
        raise ValueError(
            f"the teacher scores {100 * float(high.mean()):.1f} %, the student before training "
            f"{100 * float(low.mean()):.1f} %: there is no gap to recover"
        )
    ratio = float((mid - low).mean()) / gap
    residual = (mid - low) - ratio * (high - low)
    half = Z_95 * float(residual.std(ddof=1)) / (np.sqrt(len(residual)) * gap)
    return Interval(ratio, ratio - half, ratio + half)
