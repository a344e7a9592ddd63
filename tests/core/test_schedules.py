"""Schedules: worked numbers at the ends, in the middle and beyond."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tandem.core.schedules import (
    Shape,
    cosine_to_zero,
    learning_rate_multiplier,
    linear,
    linear_to_zero,
)


def test_trb_budget_falls_in_a_straight_line_and_stays_at_zero() -> None:
    budget = [linear_to_zero(0.02, k, 4) for k in range(7)]
    assert budget == pytest.approx([0.02, 0.015, 0.01, 0.005, 0, 0, 0], abs=1e-18)
    assert budget[4:] == [0, 0, 0]


def test_a_horizon_of_zero_steps_is_over_at_once() -> None:
    assert linear_to_zero(0.02, 0, 0) == 0
    assert cosine_to_zero(1.0, 0, 0) == 0
    assert linear(0.8, 1.0, 0, 0) == 1.0


def test_linear_goes_from_start_to_end_exactly_and_then_stays() -> None:
    assert [linear(0.8, 1.0, k, 2) for k in (0, 1, 2, 3)] == pytest.approx([0.8, 0.9, 1.0, 1.0])
    assert linear(0.8, 1.0, 2, 2) == 1.0


def test_cosine_to_zero_is_half_a_cosine() -> None:
    values = [cosine_to_zero(2.0, k, 4) for k in range(6)]
    assert values == pytest.approx([2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0, 0], abs=1e-12)
    assert values[4:] == [0, 0]


def test_schedules_never_rise_on_the_way_to_zero() -> None:
    for fall in (linear_to_zero, cosine_to_zero):
        values = [fall(1.0, k, 37) for k in range(40)]
        assert all(a >= b >= 0 for a, b in pairwise(values))


def multipliers(schedule: Shape, warmup: str = "cosine", steps: int = 10) -> list[float]:
    shape = "linear" if warmup == "linear" else "cosine"
    return [
        learning_rate_multiplier(schedule, step=k, total_steps=steps, warmup_steps=3, warmup=shape)
        for k in range(steps)
    ]


def test_linear_warmup_rises_in_equal_parts_from_above_zero_to_the_full_rate() -> None:
    assert multipliers("constant", "linear") == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 7)


def test_cosine_warmup_is_half_a_cosine_through_one_half_in_the_middle() -> None:
    first = 0.5 * (1 - 0.5**0.5)
    assert multipliers("constant") == pytest.approx([first, 0.5, 1 - first] + [1.0] * 7)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_decay_starts_at_the_full_rate_after_warmup_and_ends_one_step_above_zero(
    schedule: Shape,
) -> None:
    values = multipliers(schedule)
    assert values[3] == 1.0
    assert all(a > b for a, b in pairwise(values[3:]))
    left = 1 / 7
    assert values[-1] == pytest.approx(
        left if schedule == "linear" else cosine_to_zero(1.0, 6, 7), rel=1e-12
    )
    assert values[-1] > 0


def test_every_rate_of_a_run_is_positive_so_that_no_step_is_wasted() -> None:
    for schedule in ("constant", "cosine", "linear"):
        assert all(0 < m <= 1 for m in multipliers(schedule))


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps is 5, but the run has only 4 steps"):
        learning_rate_multiplier("constant", step=0, total_steps=4, warmup_steps=5)
