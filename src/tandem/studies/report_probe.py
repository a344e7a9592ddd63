"""The step-0 probe in a report: drawn from the probe.json that `tandem probe` left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from tandem.studies import report_marks as marks
from tandem.studies.page import folded, notes, plots, wide_table
from tandem.studies.pictures import Picture

PROBE = "probe.json"
SCHEMA = 1
_WHO = ("teacher", "student")


def read_probe(path: Path) -> dict[str, Any]:
    """A probe.json. Raises ValueError where it is of another version of tandem."""
    return read_schema(path, SCHEMA, command="tandem probe")


def read_schema(path: Path, schema: int, *, command: str) -> dict[str, Any]:
    """A JSON file that says which schema it follows. command: what writes it."""
    found = json.loads(path.read_bytes())
    version = found.get("schema") if isinstance(found, dict) else None
    if version != schema:
        raise ValueError(
            f"{path} has schema {version!r} and this report reads {schema}: write it anew with "
            f"{command}"
        )
    return found


def probe_section(probe: Mapping[str, Any]) -> str:
    """Success against the length of the prefix, continued by the teacher and by the student."""
    behaviours: list[str] = list(probe["behaviours"])
    rows: list[Mapping[str, Any]] = list(probe["rows"])
    figures = [
        _figure(
            f"Continued by the {who}",
            "share of right answers",
            behaviours,
            [row for row in rows if row["continued_by"] == who],
            share=True,
        )
        for who in _WHO
    ]
    differences: list[Mapping[str, Any]] = list(probe.get("differences", ()))
    figures += [
        _figure(
            f"Less the student's prefixes, continued by the {who}",
            "difference in the share of right answers",
            behaviours,
            [row for row in differences if row["continued_by"] == who],
            share=False,
        )
        for who in _WHO
        if any(row["continued_by"] == who for row in differences)
    ]
    said = [
        f"Responses of each behaviour, cut after so many tokens and continued by one model alone: "
        f"{probe['problems']} problems of {probe['task']} × {probe['samples']} samples, seed "
        f"{probe['seed']}; student {probe['model']}, teacher {probe['teacher']}. Bars are 95 % "
        "intervals over problems."
    ]
    return plots(figures) + notes(said) + folded("The probe's numbers", _numbers(rows))


def _figure(
    title: str,
    unit: str,
    behaviours: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    share: bool,
) -> str:
    lengths = sorted({row["length"] for row in rows})
    # Bars that lie on each other cannot be read: side by side, within a fraction of the gap.
    gap = min((b - a for a, b in pairwise(lengths)), default=1)
    by_name = {name: [r for r in rows if r["behaviour"] == name] for name in behaviours}
    shown = [(i, name) for i, name in enumerate(behaviours) if by_name[name]]

    def fill(axes: Axes) -> None:
        for number, (index, name) in enumerate(shown):
            shift = (number - (len(shown) - 1) / 2) * 0.3 * gap / max(1, len(shown))
            own = sorted(by_name[name], key=lambda row: row["length"])
            x = [row["length"] + shift for row in own]
            axes.vlines(
                x, [r["low"] for r in own], [r["high"] for r in own], color=marks.colour(index),
                linewidth=1, alpha=0.7,
            )  # fmt: skip
            marks.line(axes, x, [r["mean"] for r in own], index=index, sparse=False)
        axes.set_title(unit, color="#555b66")
        axes.set_xlabel("tokens before the cut")
        if share:
            axes.set_ylim(-0.02, 1.03)
        else:
            axes.axhline(0, color="#555b66", linewidth=0.8)

    ends = "; ".join(f"{name} {max(by_name[name], key=_length)['mean']:.2f}" for _, name in shown)
    alt = f"{title}: {unit} against tokens before the cut. At the longest: {ends}"
    return Picture(title, fill, alt=alt, key=tuple(shown)).html(salt="probe")


def _length(row: Mapping[str, Any]) -> int:
    return row["length"]


def _numbers(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("behaviour", "tokens", "continued by", "right, % [95 %]", "ended by then, %")
    cells = [
        [
            str(row["behaviour"]),
            str(row["length"]),
            str(row["continued_by"]),
            f"{100 * row['mean']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]",
            f"{100 * row['finished']:.1f}",
        ]
        for row in rows
    ]
    return wide_table("the probe's numbers", header, cells)
