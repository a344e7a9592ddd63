"""Trajectories with bands over seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tandem.studies.plots import RUN_PLOTS, Row
from tandem.studies.report_bands import (
    STEPS_DRAWN,
    Group,
    band,
    over_seeds,
    remarks,
    trajectories,
)

KEY = "eval/pass@1"


def _rows(*values: float | None, every: int = 10) -> list[Row]:
    return [{"step": every * i, KEY: value} for i, value in enumerate(values)]


def test_the_band_of_two_seeds_by_hand() -> None:
    # t(0.975, 1) = 12.7062; s = 0.2/√2, so s/√2 = 0.1.
    mean, low, high = over_seeds([0.5, 0.7])
    assert (mean, low, high) == pytest.approx((0.6, 0.6 - 1.27062, 0.6 + 1.27062), abs=1e-5)


def test_the_band_is_students_t_interval_at_every_step() -> None:
    draw = np.random.default_rng(0)
    runs = draw.normal(0.5, 0.1, size=(5, 4))
    found = band(Group("a", {s: _rows(*run) for s, run in enumerate(runs)}, 0), KEY)
    assert found.steps == [0, 10, 20, 30]
    for i in range(4):
        own = runs[:, i]
        expected = stats.t.interval(0.95, 4, loc=own.mean(), scale=stats.sem(own))
        assert found.mean[i] == pytest.approx(own.mean())
        assert (found.low[i], found.high[i]) == pytest.approx(expected)


def test_the_order_of_the_seeds_does_not_matter() -> None:
    runs = {0: _rows(0.1, 0.2), 1: _rows(0.3, 0.5), 2: _rows(0.2, 0.9)}
    turned = dict(reversed(runs.items()))
    one, other = band(Group("a", runs, 0), KEY), band(Group("a", turned, 0), KEY)
    assert one.steps == other.steps
    assert [*one.mean, *one.low, *one.high] == pytest.approx([*other.mean, *other.low, *other.high])


def test_one_seed_has_no_band_and_that_is_said() -> None:
    alone = Group("lone", {3: _rows(0.1, 0.2)}, 0)
    found = band(alone, KEY)
    assert found.mean == [0.1, 0.2] and all(map(math.isnan, [*found.low, *found.high]))
    assert remarks([alone]) == ["One seed only, so no band: lone."]
    assert "One seed only, so no band: lone." in trajectories([alone])


def test_a_seed_that_ended_early_is_left_out_from_there_and_that_is_said() -> None:
    runs = {0: _rows(0.1, 0.2, 0.3), 1: _rows(0.3, 0.4), 2: _rows(0.2, 0.3, 0.5)}
    found = band(Group("a", runs, 0), KEY)
    assert found.mean == pytest.approx([0.2, 0.3, 0.4])
    assert remarks([Group("a", runs, 0)])[1] == (
        "a: 1 of 3 seeds end before step 20 (at 10); after that the mean is of the others."
    )


def test_steps_without_a_value_are_no_zeros() -> None:
    runs = {0: _rows(0.5, None, 0.7), 1: _rows(0.5, None, 0.9)}
    found = band(Group("a", runs, 0), KEY)
    assert found.steps == [0, 20] and found.mean == pytest.approx([0.5, 0.8])


def test_methods_keep_their_colours_where_others_logged_nothing() -> None:
    groups = [
        Group("quiet", {0: [{"step": 0, KEY: 0.1}]}, 0),
        Group("loud", {0: [{"step": 0, KEY: 0.1}, {"step": 1, "train/loss": 2.0}]}, 1),
    ]
    shown = trajectories(groups)
    loss = shown[shown.index("<h3>Loss</h3>") :]
    assert "loud" in loss.partition("</ul>")[0] and "quiet" not in loss.partition("</ul>")[0]
    accuracy = shown[shown.index("<h3>Accuracy</h3>") : shown.index("<h3>Loss</h3>")]
    colour = '<svg viewBox="0 0 26 10" aria-hidden="true" fill="#d1662b">'
    assert colour in accuracy and colour in loss


def test_a_picture_says_in_words_where_each_method_ends() -> None:
    groups = [Group("a & b", {0: _rows(0.1, 0.25), 1: _rows(0.1, 0.35)}, 0)]
    assert (
        'alt="Accuracy by optimiser step, sampled pass@1, share of problems: '
        'a &amp; b ends at 0.3"' in trajectories(groups)
    )


def test_long_runs_are_thinned_and_keep_their_ends() -> None:
    rows: list[Row] = [{"step": i, "train/loss": 1.0 / (i + 1)} for i in range(5 * STEPS_DRAWN)]
    text = trajectories([Group("long", {0: rows}, 0)])
    assert f"Of more than {STEPS_DRAWN} steps, evenly spaced ones are drawn." in text
    assert "long ends at 0.0005" in text


def test_names_of_any_kind_neither_break_a_picture_nor_the_page() -> None:
    for name in ("$a_b$ {x}", "_hidden", "中文 😀", '"><script>alert(1)</script>', "x" * 300):
        text = trajectories([Group(name, {0: _rows(0.1, 0.2)}, 0)])
        assert "<script" not in text and text.count("<img") == 1


def test_runs_without_a_metric_have_no_pictures() -> None:
    assert trajectories([Group("a", {0: []}, 0)], RUN_PLOTS) == (
        '<p class="none">No metrics were logged.</p>'
    )
