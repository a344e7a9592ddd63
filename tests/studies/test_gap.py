"""The share of the gap that was recovered."""

from __future__ import annotations

import numpy as np
import pytest

from tandem.studies.gap import gap_recovered


def _scores(values: list[float]) -> dict[str, float]:
    return {str(i): value for i, value in enumerate(values)}


def test_a_gap_worked_by_hand() -> None:
    before = _scores([0.0, 0.5, 0.0, 0.0])
    after = _scores([1.0, 0.5, 0.25, 0.5])
    teacher = _scores([1.0, 1.0, 1.0, 1.0])
    found = gap_recovered(teacher=teacher, before=before, after=after)
    # (0.5625 − 0.125) / (1 − 0.125) = 0.5; residuals (after − before) − 0.5 (teacher − before).
    assert found.mean == pytest.approx(0.5)
    residual = np.array([0.5, -0.25, -0.25, 0.0])
    half = 1.959964 * residual.std(ddof=1) / (2.0 * 0.875)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_nothing_learnt_is_zero_and_everything_is_one() -> None:
    before, teacher = _scores([0.0, 0.5, 0.25]), _scores([1.0, 0.75, 1.0])
    assert gap_recovered(teacher=teacher, before=before, after=before).mean == 0.0
    found = gap_recovered(teacher=teacher, before=before, after=teacher)
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


def test_the_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    trials, problems, samples = 2000, 200, 4
    covered = 0
    for _ in range(trials):
        # Problems differ in difficulty, so the three scores are correlated.
        ease = rng.uniform(-0.05, 0.05, problems)
        draws = [rng.binomial(samples, p + ease) / samples for p in (0.95, 0.1, 0.6)]
        teacher, before, after = (_scores(list(map(float, d))) for d in draws)
        found = gap_recovered(teacher=teacher, before=before, after=after)
        covered += found.low <= 0.5 / 0.85 <= found.high
    z = (covered / trials - 0.95) / np.sqrt(0.95 * 0.05 / trials)
    assert abs(z) < 4


def test_a_teacher_no_better_than_the_student_has_no_gap() -> None:
    same = _scores([0.5, 0.5])
    with pytest.raises(ValueError, match=r"scores 50\.0 %, .* 50\.0 %: there is no gap"):
        gap_recovered(teacher=same, before=same, after=same)


def test_scores_of_different_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="on the same problems"):
        gap_recovered(teacher=_scores([1.0]), before=_scores([0.0]), after={"other": 0.5})
