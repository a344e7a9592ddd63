"""Trajectories of methods: the mean over seeds at each step, and its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from tandem.evaluation.intervals import CONFIDENCE, t_quantile
from tandem.studies import report_marks as marks
from tandem.studies.page import notes, plots
from tandem.studies.pictures import Picture
from tandem.studies.plots import RUN_PLOTS, Line, Plot, Row, over_steps, points

STEPS_DRAWN = 400
"""More steps than this are thinned evenly: a picture has no more pixels."""


@dataclass(frozen=True, slots=True)
class Group:
    """The runs of one method. runs: seed to the rows of its metrics.jsonl. index: its colour."""

    label: str
    runs: Mapping[int, Sequence[Row]]
    index: int


@dataclass(frozen=True, slots=True)
class Band:
    """A metric of a method by step. low, high: 95 % by Student's t over the seeds; nan with one."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def band(group: Group, key: str) -> Band:
    """Mean and interval of a metric over the seeds that logged it, at every step that one did."""
    found: dict[int, list[float]] = {}
    for rows in group.runs.values():
        for step, value in zip(*points(rows, key), strict=True):
            found.setdefault(step, []).append(value)
    steps = sorted(found)
    bounds = [over_seeds(found[step]) for step in steps]
    return Band(steps, *([one[i] for one in bounds] for i in range(3)))


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % bounds by Student's t over the seeds; with one seed there are no bounds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = t_quantile(1 - CONFIDENCE, len(values)) * error
    return mean, mean - half, mean + half


def trajectories(groups: Sequence[Group], chosen: Sequence[Plot] = RUN_PLOTS) -> str:
    """Every plot that any of the runs logged something for, and what is to be said of the seeds."""
    figures = band_figures(groups, chosen)
    if not figures:
        return '<p class="none">No metrics were logged.</p>'
    return plots([figure.html(salt="bands") for figure in figures]) + notes(remarks(groups))


def band_figures(groups: Sequence[Group], chosen: Sequence[Plot] = RUN_PLOTS) -> list[Picture]:
    """The plots that any of the runs logged something for."""
    return [_figure(plot, groups) for plot in chosen if _shown(plot.lines[0], groups)]


def remarks(groups: Sequence[Group]) -> list[str]:
    """What the bands are, who has none, and where seeds are missing from a mean."""
    several = [group for group in groups if len(group.runs) > 1]
    alone = [group.label for group in groups if len(group.runs) == 1]
    said: list[str] = []
    if several:
        said.append("Lines are means over seeds; bands are their 95 % intervals by Student's t.")
    if alone:
        said.append(f"One seed only, so no band: {', '.join(alone)}.")
    for group in several:
        last = [max((row["step"] for row in rows), default=0) for rows in group.runs.values()]
        short = sorted({step for step in last if step < max(last)})
        if short:
            count = sum(step < max(last) for step in last)
            said.append(
                f"{group.label}: {count} of {len(last)} seeds end before step {max(last)} (at "
                f"{', '.join(map(str, short))}); after that the mean is of the others."
            )
    longest = max((len(rows) for group in groups for rows in group.runs.values()), default=0)
    if longest > STEPS_DRAWN:
        said.append(f"Of more than {STEPS_DRAWN} steps, evenly spaced ones are drawn.")
    return said


def _shown(line: Line, groups: Sequence[Group]) -> list[Group]:
    return [g for g in groups if any(points(rows, line.key)[0] for rows in g.runs.values())]


def _figure(plot: Plot, groups: Sequence[Group]) -> Picture:
    main, limits = plot.lines[0], [line for line in plot.lines[1:] if line.limit]
    shown = _shown(main, groups)

    def fill(axes: Axes) -> None:
        for group in shown:
            _draw(axes, plot, _thinned(band(group, main.key)), group.index)
            for line in limits:
                limit = _thinned(band(group, line.key))
                axes.plot(limit.steps, limit.mean, "--", color=marks.colour(group.index), lw=1)
        over_steps(axes, plot)

    note = [plot.note] if plot.note and main.low is None else []
    note += [f"Dashed: {line.label}." for line in limits]
    ends = "; ".join(f"{g.label} ends at {band(g, main.key).mean[-1]:.3g}" for g in shown)
    return Picture(
        plot.title,
        fill,
        alt=f"{plot.title} by optimiser step, {plot.unit}: {ends}",
        note=" ".join(note),
        key=tuple((group.index, group.label) for group in shown),
    )


def _draw(axes: Axes, plot: Plot, found: Band, index: int) -> None:
    low, high = np.array(found.low), np.array(found.high)
    if plot.floor is not None:
        low = np.maximum(low, plot.floor)
    if plot.ceiling is not None:
        high = np.minimum(high, plot.ceiling)
    marks.line(axes, found.steps, found.mean, index=index, sparse=not plot.markers)
    if np.isfinite(low).any():
        axes.fill_between(
            found.steps, low, high, color=marks.colour(index), alpha=0.15, linewidth=0
        )


def _thinned(found: Band) -> Band:
    if len(found.steps) <= STEPS_DRAWN:
        return found
    kept = np.unique(np.linspace(0, len(found.steps) - 1, STEPS_DRAWN).round().astype(int))
    columns = (found.steps, found.mean, found.low, found.high)
    return Band(*([column[i] for i in kept] for column in columns))
