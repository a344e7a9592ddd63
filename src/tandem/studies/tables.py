"""Tables of results: the same digits as Markdown, CSV and HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tandem.evaluation.comparisons import Comparison
from tandem.evaluation.intervals import Interval
from tandem.studies.grid import Point
from tandem.studies.page import table
from tandem.studies.report import page


@dataclass(frozen=True, slots=True)
class Line:
    """One row: a method or a model. score: pass@1 with its interval. against: its comparison with
    the baseline; None for the baseline itself. setting: what tuning chose."""

    label: str
    runs: int
    score: Interval
    against: Comparison | None = None
    setting: str = ""


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Rows that were compared with one of them. notes: how, and what they cannot say. remarks: on
    these rows alone, such as which runs diverged.

    point, model: where in a study its runs stand, and the evaluation that they were judged by; both
    None for a table of hypotheses, as for runs without a study.
    """

    title: str
    baseline: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    point: Point | None = None
    model: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def said(self) -> tuple[str, ...]:
        """All that stands below the table."""
        return (*self.notes, *self.remarks)


# Columns as they are shown; the CSV file takes intervals apart.
_COLUMNS = (
    "",
    "runs",
    "pass@1 [95 %]",
    "difference [95 %]",
    "corrected",
    "p",
    "Holm p",
    "verdict",
    "detectable",
)
_CSV = (
    *("table", "row", "setting", "runs", "pass@1", "low", "high"),
    *("difference", "difference_low", "difference_high", "corrected_low", "corrected_high"),
    *("p", "holm_p", "verdict", "detectable"),
)


def as_markdown(tables: Sequence[ResultTable]) -> str:
    """Headings, pipes and notes."""
    return "\n".join(f"## {in_markdown(one.title)}\n\n{table_in_markdown(one)}" for one in tables)


def table_in_markdown(one: ResultTable) -> str:
    """A table and its notes without a heading."""
    return f"{grid_in_markdown(*_shown(one))}\n{notes_in_markdown(one.said)}"


def grid_in_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Any table with pipes."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(in_markdown, cells)) + " |\n" for cells in lines)


def notes_in_markdown(notes: Sequence[str]) -> str:
    """Remarks, one to a line."""
    return "".join(f"* {in_markdown(note)}\n" for note in notes)


def as_csv(tables: Sequence[ResultTable]) -> str:
    """All tables in one, points and per cent as numbers; empty where the baseline has none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV)
    for one in tables:
        for line in one.lines:
            score = _percentages(line.score)
            writer.writerow(
                [one.title, line.label, line.setting, line.runs, *score, *_compared(line)]
            )
    return buffer.getvalue()


def as_html(tables: Sequence[ResultTable], *, title: str) -> str:
    """One page."""
    body = [f"<header><h1>{escape(title)}</h1></header>"]
    for one in tables:
        header, rows = _shown(one)
        notes = "".join(f"<li>{escape(note)}</li>" for note in one.said)
        body.append(f"<h2>{escape(one.title)}</h2>{table(header, rows)}<ul>{notes}</ul>")
    return page(title=title, body="\n".join(body))


def as_text(one: ResultTable) -> list[str]:
    """Aligned lines for a terminal."""
    header, rows = _shown(one)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    grid = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return [one.title, *grid, *one.said]


def _shown(one: ResultTable) -> tuple[list[str], list[list[str]]]:
    """Header and cells as people read them; the column of settings only where there are any."""
    header: list[str] = list(_COLUMNS)
    rows: list[list[str]] = []
    for line in one.lines:
        compared = _compared(line)
        interval, corrected, rest = compared[:3], compared[3:5], compared[5:]
        if line.against is not None:
            rest = [p_value(line.against.p), p_value(line.against.holm_p), *rest[2:]]
        rows.append(
            [
                line.label,
                str(line.runs),
                _bounds(*_percentages(line.score)),
                _bounds(*interval) if line.against else "baseline",
                f"[{', '.join(corrected)}]" if line.against else "",
                *rest,
            ]
        )
    if any(line.setting for line in one.lines):
        header.append("setting")
        rows = [[*row, line.setting] for row, line in zip(rows, one.lines, strict=True)]
    return header, rows


def p_value(p: float) -> str:
    """Four decimals, and no 0 that is none."""
    return f"{p:.4f}" if p >= 0.00005 else "<0.0001"


def _compared(line: Line) -> list[str]:
    """Difference, its bounds, the corrected ones, p, Holm's p, verdict and what was detectable."""
    found = line.against
    if found is None:
        return [""] * 9
    d, c = found.difference, found.corrected
    return [
        *(f"{100 * x:+.1f}" for x in (d.mean, d.low, d.high, c.low, c.high)),
        f"{found.p:.4f}",
        f"{found.holm_p:.4f}",
        found.verdict,
        f"{100 * found.detectable:.1f}",
    ]


def _percentages(score: Interval) -> list[str]:
    return [f"{100 * x:.1f}" for x in (score.mean, score.low, score.high)]


def _bounds(mean: str, low: str, high: str) -> str:
    return f"{mean} [{low}, {high}]"


def in_markdown(text: str) -> str:
    """Text that neither ends a cell nor means anything to Markdown's HTML."""
    plain = " ".join(text.splitlines()).replace("\\", "\\\\").replace("|", "\\|")
    for mark in ("`", "*", "](", "~~"):
        plain = plain.replace(mark, f"\\{mark}")
    return plain.replace("&", "&amp;").replace("<", "&lt;")
