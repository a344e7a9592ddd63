"""The sweeps of a study: each hyper-parameter against the score that settings were chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from tandem.studies import report_marks as marks
from tandem.studies.choosing import described, flat
from tandem.studies.page import folded, notes, plots, wide_table
from tandem.studies.pictures import Picture

SIDE_BY_SIDE = 10
"""Up to so many values of a hyper-parameter have a place each; more are drawn to scale."""
MARKS_SAID = (
    "Each mark is a setting: the mean over its tuning seeds, the thin line from the worst seed to "
    "the best. The ring is the setting that was chosen."
)
# How far the methods' points of one value stand apart, as a share of the way to the next value.
_SPREAD = 0.6


@dataclass(frozen=True, slots=True)
class Sweep:
    """A row's settings. tried: as in chosen.json, flat keys to values with the seeds' scores."""

    label: str
    index: int
    tried: tuple[Mapping[str, Any], ...]
    scores: tuple[tuple[float, ...], ...]
    chosen: int

    def mean(self, setting: int) -> float:
        return sum(self.scores[setting]) / len(self.scores[setting])


def sweeps(chosen: Mapping[str, Any], titles: Mapping[str, str]) -> list[Sweep]:
    """The rows of a chosen.json that had a choice. titles: all rows in the order of the study."""
    return [
        Sweep(
            label=titles[row],
            index=list(titles).index(row),
            tried=tuple(flat(one["setting"]) for one in found["tried"]),
            scores=tuple(tuple(one["scores"].values()) for one in found["tried"]),
            chosen=found["chosen"],
        )
        for row, found in chosen.items()
        if found["tried"]
    ]


def sweep_section(found: Sequence[Sweep]) -> str:
    """A picture per hyper-parameter, and all scores as a table."""
    if not found:
        return '<p class="none">No row had settings to choose from.</p>'
    figures = [figure.html(salt="sweep") for figure in sweep_figures(found)]
    rows = [
        [
            sweep.label,
            described(dict(tried)),
            " ".join(f"{100 * score:.1f}" for score in sweep.scores[number]),
            f"{100 * sweep.mean(number):.1f}",
            "chosen" if number == sweep.chosen else "",
        ]
        for sweep in found
        for number, tried in enumerate(sweep.tried)
    ]
    header = ("row", "setting", "seeds, %", "mean, %", "")
    every = wide_table("all settings", header, rows, words=("setting",))
    return plots(figures) + notes([MARKS_SAID]) + folded("All settings and scores", every)


def sweep_figures(found: Sequence[Sweep]) -> list[Picture]:
    """A picture per hyper-parameter, with every row that was swept over it."""
    keys = dict.fromkeys(key for sweep in found for tried in sweep.tried for key in tried)
    return [_figure(key, [s for s in found if _values(s, key)]) for key in keys]


def _values(sweep: Sweep, key: str) -> list[Any]:
    return [tried[key] for tried in sweep.tried if key in tried]


def _figure(key: str, found: Sequence[Sweep]) -> Picture:
    """One hyper-parameter of every row that was swept over it."""
    place, ticks = _places([value for sweep in found for value in _values(sweep, key)])
    step = _SPREAD / len(found) if ticks else 0.0

    def fill(axes: Axes) -> None:
        for number, sweep in enumerate(found):
            shift = (number - (len(found) - 1) / 2) * step
            for setting, tried in enumerate(sweep.tried):
                if key in tried:
                    _mark(axes, place[_name(tried[key])] + shift, sweep, setting)
        axes.set_title("validation pass@1, share of problems", color="#555b66")
        axes.set_xlabel(marks.drawable(key))
        if ticks:
            names = [marks.drawable(marks.shortened(name, 14)) for name in ticks]
            axes.set_xticks(range(len(ticks)), names, rotation=30 if _long(ticks) else 0)
            axes.set_xlim(-0.5, len(ticks) - 0.5)
        elif min(place.values()) > 0:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        scores = [s.scores[n] for s in found for n, tried in enumerate(s.tried) if key in tried]
        marks.share_limits(axes, (score for seeds in scores for score in seeds))

    best = "; ".join(
        f"{sweep.label} chose {_name(sweep.tried[sweep.chosen].get(key, 'another'))} at "
        f"{100 * sweep.mean(sweep.chosen):.1f} %"
        for sweep in found
    )
    return Picture(
        key,
        fill,
        alt=f"Validation pass@1 against {key}: {best}",
        key=tuple((sweep.index, sweep.label) for sweep in found),
    )


def _mark(axes: Axes, x: float, sweep: Sweep, setting: int) -> None:
    colour, scores = marks.colour(sweep.index), sweep.scores[setting]
    mean = sweep.mean(setting)
    axes.plot([x, x], [min(scores), max(scores)], color=colour, lw=0.8, alpha=0.6)
    axes.plot([x], [mean], marks.marker(sweep.index), color=colour, markersize=4.5)
    if setting == sweep.chosen:
        axes.plot([x], [mean], "o", mfc="none", mec="#1c2026", markersize=10, mew=1.2)


def _places(values: Sequence[Any]) -> tuple[dict[str, float], list[str]]:
    """Where each value stands, and the names of the places; none where numbers are to scale."""
    distinct = {_name(value): value for value in values}
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct.values())
    if numbers and len(distinct) > SIDE_BY_SIDE:
        return {name: float(value) for name, value in distinct.items()}, []
    order = sorted(distinct, key=lambda name: float(distinct[name])) if numbers else list(distinct)
    return {name: float(i) for i, name in enumerate(order)}, order


def _name(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=2**30).splitlines()[0]


def _long(names: Sequence[str]) -> bool:
    return sum(min(len(name), 14) + 2 for name in names) > 48
