"""Result tables in a report: what was found, with its intervals drawn above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from tandem.evaluation.intervals import Interval
from tandem.studies import report_marks as marks
from tandem.studies.page import notes, plots, wide_table
from tandem.studies.pictures import Picture
from tandem.studies.tables import Line, ResultTable, p_value

_HEADER = (
    "row",
    "runs",
    "pass@1, % [95 %]",
    "difference, points [95 %]",
    "corrected by Holm",
    "p",
    "Holm p",
    "verdict",
    "detectable",
)
_NAME = 20


def result_section(table: ResultTable, *, picture_too: bool = True) -> str:
    """A table, its notes and, where asked for, its differences as a picture."""
    rows = [_cells(line) for line in table.lines]
    figure = plots([differences(table).html(salt=table.title)]) if picture_too else ""
    grid = wide_table(table.title, _HEADER, rows)
    return f"{figure}{grid}{notes(table.said)}"


def per_cent(score: Interval) -> str:
    """A share with its bounds."""
    return f"{100 * score.mean:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def points(difference: Interval) -> str:
    """A difference with its bounds, in points."""
    return f"{100 * difference.mean:+.1f} {bounds(difference)}"


def bounds(difference: Interval) -> str:
    """The bounds of a difference alone."""
    return f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def axis_figure(
    title: str, values: Sequence[tuple[str, ResultTable]], *, indexes: Mapping[str, int]
) -> Picture:
    """pass@1 of every row at each value of an axis. indexes: the rows' colours."""
    labels = list(dict.fromkeys(line.label for _, table in values for line in table.lines))
    spread = 0.3 / (1 + len(labels))

    def fill(axes: Axes) -> None:
        for number, label in enumerate(labels):
            shift, index = (number - (len(labels) - 1) / 2) * spread, indexes[label]
            own = [
                (place + shift, line.score)
                for place, (_, table) in enumerate(values)
                for line in table.lines
                if line.label == label
            ]
            x, scores = [at for at, _ in own], [score for _, score in own]
            axes.vlines(
                x, [s.low for s in scores], [s.high for s in scores], color=marks.colour(index),
                linewidth=1, alpha=0.7,
            )  # fmt: skip
            marks.line(axes, x, [score.mean for score in scores], index=index, sparse=False)
        names = [marks.drawable(marks.shortened(value, 14)) for value, _ in values]
        axes.set_xticks(range(len(values)), names)
        axes.set_xlim(-0.5, len(values) - 0.5)
        scores = [line.score for _, table in values for line in table.lines]
        marks.share_limits(axes, (end for score in scores for end in (score.low, score.high)))
        axes.set_title("test pass@1, share of problems", color="#555b66")

    said = "; ".join(
        f"{value}: {', '.join(f'{li.label} {per_cent(li.score)} %' for li in table.lines)}"
        for value, table in values
    )
    return Picture(
        "pass@1 of the final model",
        fill,
        alt=f"Test pass@1 by {title}. {said}",
        note="Bars are 95 % intervals.",
        key=tuple((indexes[label], label) for label in labels),
    )


def _cells(line: Line) -> list[str]:
    start = [line.label, str(line.runs), per_cent(line.score)]
    found = line.against
    if found is None:
        return [*start, "baseline", *[""] * 5]
    return [
        *start,
        points(found.difference),
        bounds(found.corrected),
        p_value(found.p),
        p_value(found.holm_p),
        found.verdict,
        f"{100 * found.detectable:.1f}",
    ]


def differences(table: ResultTable) -> Picture:
    """Each row's difference from the baseline: 95 % thick, corrected thin."""
    compared = [(line.label, line.against) for line in table.lines if line.against is not None]

    def fill(axes: Axes) -> None:
        for place, (_, found) in enumerate(compared):
            colour = {"better": "#3f8f5b", "worse": "#b23a26"}.get(found.verdict, "#5b6470")
            own, corrected = found.difference, found.corrected
            axes.hlines(place, 100 * corrected.low, 100 * corrected.high, color=colour, lw=1)
            axes.hlines(place, 100 * own.low, 100 * own.high, color=colour, lw=3, alpha=0.6)
            axes.plot([100 * own.mean], [place], "o", color=colour, markersize=5)
        names = [marks.wrapped(marks.drawable(label), _NAME) for label, _ in compared]
        axes.set_yticks(range(len(compared)), names)
        axes.set_ylim(len(compared) - 0.5, -0.5)
        axes.axvline(0, color="#1c2026", linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("points of pass@1")

    said = "; ".join(f"{name} {points(x.difference)}, {x.verdict}" for name, x in compared)
    title = f"Difference from {table.baseline}"
    return Picture(
        title,
        fill,
        alt=f"{title} in points of pass@1: {said}",
        note="Thick: 95 %. Thin: corrected by Holm over this table.",
        size=(4.4, 0.8 + 0.3 * len(compared)),
    )
