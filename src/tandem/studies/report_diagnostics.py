"""Diagnostics in a report: drawn from the diagnose.json files that `tandem diagnose` left."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from tandem.studies import report_marks as marks
from tandem.studies.page import drawn, folded, notes, plots, wide_table
from tandem.studies.plots import picture
from tandem.studies.report_probe import read_schema

DIAGNOSE = "diagnose.json"
SCHEMA = 1
LOGGED = "/"
"""What only the names of logged metrics have in them."""
# Whose responses a scalar is of, by the end of its name.
_WHOSE = {"": "this run", "_before": "student before", "_teacher": "teacher"}


@dataclass(frozen=True, slots=True)
class Diagnosed:
    """A diagnose.json and what the report calls the model that it is of."""

    label: str
    data: Mapping[str, Any]


def read_diagnosed(path: Path, label: str) -> Diagnosed:
    """A diagnose.json. Raises ValueError where it is of another version of tandem."""
    return Diagnosed(label, read_schema(path, SCHEMA, command="tandem diagnose"))


def diagnostics_section(found: Sequence[Diagnosed]) -> str:
    """Scalars as a table, curves and histograms as pictures, all models in each."""
    curves = _names(found, "curves")
    logged = [name for name in curves if LOGGED in name]
    figures = [_figure(name, found, "curves", _curves) for name in curves if name not in logged]
    figures += [
        _figure(name, found, "histograms", _histograms) for name in _names(found, "histograms")
    ]
    said = [
        f"{one.label}: {one.data['checkpoint']}, {one.data['problems']} problems." for one in found
    ]
    body = _scalars(found) + (plots(figures) if figures else "")
    body += notes([*said, "Brackets and bands are 95 % intervals."])
    if logged:
        training = [_figure(name, found, "curves", _curves) for name in logged]
        body += folded("While training", plots(training))
    return body


def _names(found: Sequence[Diagnosed], part: str) -> list[str]:
    """Names of a part's members; `name, aspect` is a further line of `name`."""
    names = dict.fromkeys(name for one in found for name in one.data[part])
    return [name for name in names if name.partition(", ")[0] not in names or ", " not in name]


def _scalars(found: Sequence[Diagnosed]) -> str:
    """A line per scalar; those of three models' responses, which differ in their end, are one."""
    names = _names(found, "scalars")
    if not names:
        return ""
    whole = [name for name in names if _base(name, names) == name]
    ends = [end for end in _WHOSE if not end or any(f"{name}{end}" in names for name in whole)]
    columns = [(one, end) for one in found for end in ends]
    header = [
        ", ".join([one.label] * (len(found) > 1) + [_WHOSE[end]] * (len(ends) > 1)) or one.label
        for one, end in columns
    ]
    rows = [
        [
            _title(name),
            *(_bounded(one.data["scalars"].get(f"{name}{end}")) for one, end in columns),
        ]
        for name in whole
    ]
    return wide_table("diagnostics", ("", *header), rows)


def _base(name: str, names: Sequence[str]) -> str:
    """The name without the end that says whose responses it is of, where it has one."""
    for end in _WHOSE:
        base = name.removesuffix(end)
        if end and base != name and base in names:
            return base
    return name


def _bounded(value: Mapping[str, float | None] | None) -> str:
    if value is None or value["mean"] is None:
        return ""
    low, high = value["low"], value["high"]
    bounds = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    return f"{value['mean']:.3g}{bounds}"


Fill = Callable[[Axes, int, Mapping[str, Any]], str]


def _figure(name: str, found: Sequence[Diagnosed], part: str, fill_one: Fill) -> str:
    """One picture of what `fill_one` draws for each model; it returns a few words for the alt."""
    shown = [(i, one) for i, one in enumerate(found) if name in one.data[part]]
    words: list[str] = []
    beside = f"{name}, "
    aspects = dict.fromkeys(
        other.removeprefix(beside)
        for _, one in shown
        for other in one.data[part]
        if other.startswith(beside)
    )

    def fill(axes: Axes) -> None:
        for index, one in shown:
            own = one.data[part]
            words.append(f"{one.label} {fill_one(axes, index, own[name])}")
            for further in (own[beside + x]["points"] for x in aspects if beside + x in own):
                x, y = [p["x"] for p in further], [p["mean"] for p in further]
                axes.plot(x, y, ":", color=marks.colour(index), linewidth=1)

    svg = picture(f"{part} {name}", fill)
    return drawn(
        _title(name),
        svg,
        alt=f"{_title(name)}: {'; '.join(words)}",
        note=f"Dotted: {', '.join(aspects)}." if aspects else "",
        key=marks.key((index, one.label) for index, one in shown) if len(found) > 1 else "",
    )


def _curves(axes: Axes, index: int, curve: Mapping[str, Any]) -> str:
    points = [p for p in curve["points"] if p["mean"] is not None]
    x, mean = [p["x"] for p in points], [p["mean"] for p in points]
    low, high = (np.array([_number(p[end]) for p in points]) for end in ("low", "high"))
    marks.line(axes, x, mean, index=index, sparse=len(points) > 12)
    if np.isfinite(low).any():
        axes.fill_between(x, low, high, color=marks.colour(index), alpha=0.15, linewidth=0)
    axes.set_title(marks.drawable(curve["unit"]), color="#555b66")
    axes.set_xlabel(marks.drawable(curve["x"]))
    return f"from {mean[0]:.3g} to {mean[-1]:.3g} over {curve['x']}" if points else "has no points"


def _histograms(axes: Axes, index: int, histogram: Mapping[str, Any]) -> str:
    edges, counts = list(histogram["edges"]), np.array(histogram["counts"], dtype=np.float64)
    total = float(counts.sum())
    # Models are told apart by lines that cross; one alone is filled.
    heights = counts / total if total else counts
    axes.stairs(heights, edges, color=marks.colour(index), linewidth=1.5)
    if index == 0:
        axes.stairs(heights, edges, color=marks.colour(index), fill=True, alpha=0.15)
    axes.set_title("share", color="#555b66")
    axes.set_xlabel(marks.drawable(histogram["unit"]))
    most = int(np.argmax(counts)) if len(counts) else 0
    return f"most often from {edges[most]:.3g} to {edges[most + 1]:.3g}" if total else "is empty"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _title(name: str) -> str:
    # A logged metric keeps its key.
    return name if "/" in name else name.replace("_", " ")
