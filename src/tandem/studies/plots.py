"""Line plots of logged metrics, as SVG text that is the same for the same numbers."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Row = Mapping[str, Any]

# Dark enough on white for text-sized lines, and told apart by people who do not see red or green.
COLOURS = (
    *("#1f5fa8", "#d1662b", "#3f8f5b", "#8256a3"),
    *("#b3487a", "#4d9bb8", "#8a6d1f", "#5b6470"),
)
GREY = "#8a8f98"
# 4.4 inches are 317 points: on a phone 360 pixels wide the 9 point labels stay readable.
SIZE = (4.4, 2.6)
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    # No paper of their own: they lie on the page's.
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    # A name with two dollar signs is no formula.
    "text.parse_math": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e5e8",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "svg.fonttype": "path",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: a metric's key, its legend, and the keys of its interval if it has one.

    limit: what another line of the plot must keep to; drawn also where several runs are compared.
    """

    key: str
    label: str
    low: str | None = None
    high: str | None = None
    style: Literal["solid", "dashed"] = "solid"
    limit: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture: several lines over the optimiser step, of one run or of several."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    floor: float | None = 0.0
    ceiling: float | None = None
    note: str = ""
    markers: bool = False


def points(rows: Sequence[Row], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, in the order they were logged; nulls are left out."""
    kept = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return [step for step, _ in kept], [float(value) for _, value in kept]


def available(plot: Plot, runs: Mapping[str, Sequence[Row]]) -> bool:
    """Whether any run logged any of the plot's lines."""
    return any(points(rows, line.key)[0] for rows in runs.values() for line in plot.lines)


def draw(plot: Plot, runs: Mapping[str, Sequence[Row]]) -> str:
    """The plot as SVG text; `runs` maps a label to the rows of a metrics.jsonl.

    One run shows every line of the plot; several runs show the first line of each, and beside it
    the limit it must keep to, where the plot has one.
    """

    def fill(axes: Axes) -> None:
        for number, (name, rows) in enumerate(runs.items()):
            # Several runs are compared by their first line; more would be a tangle.
            single = len(runs) == 1
            lines = [x for i, x in enumerate(plot.lines) if single or i == 0 or x.limit]
            for index, line in enumerate(lines):
                colour = COLOURS[(index if single else number) % len(COLOURS)]
                several = f"{name}, {line.label}" if line.limit else name
                label = line.label if single else several
                _curve(axes, line, rows, colour=colour, label=label, markers=plot.markers)
        over_steps(axes, plot)
        handles, _ = axes.get_legend_handles_labels()
        if len(handles) > 1:
            axes.legend(loc="best")

    return picture(plot.title, fill)


def picture(
    salt: str,
    fill: Callable[[Axes], None],
    *,
    size: tuple[float, float] = SIZE,
    paper: str = "none",
    below: Callable[[Figure], None] | None = None,
) -> str:
    """What `fill` draws, as SVG text.

    salt: anything that tells it from the page's others. paper: its colour. below: draws what
    stands outside the axes.
    """
    style = {**_STYLE, "svg.hashsalt": f"tandem {salt}", "figure.facecolor": paper}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        fill(figure.add_subplot())
        if below is not None:
            below(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode()


def _curve(
    axes: Axes, line: Line, rows: Sequence[Row], *, colour: str, label: str, markers: bool
) -> None:
    steps, values = points(rows, line.key)
    if not steps:
        return
    # A curve of one or two points is invisible without marks.
    marked = markers or len(steps) < 3
    dash = "--" if line.style == "dashed" else "-"
    mark = "o" if marked else None
    axes.plot(steps, values, dash, color=colour, label=label, marker=mark, markersize=3.5)
    if line.low is not None and line.high is not None:
        low, high = points(rows, line.low), points(rows, line.high)
        if low[0] == high[0] and low[0]:
            axes.fill_between(low[0], low[1], high[1], color=colour, alpha=0.15, linewidth=0)


def over_steps(axes: Axes, plot: Plot) -> None:
    """The axes of a plot over the optimiser step, once its lines are drawn."""
    axes.set_title(plot.unit, color="#555b66")
    axes.set_xlabel("optimiser step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _, high = axes.get_ylim()
    if plot.floor is not None and plot.ceiling is not None:
        span = plot.ceiling - plot.floor
        axes.set_ylim(plot.floor - 0.02 * span, plot.ceiling + 0.03 * span)
    elif plot.floor is not None and axes.dataLim.y0 >= plot.floor:
        # The margin above is by how far the values spread, which may be next to nothing.
        high = max(high, plot.floor + 1.06 * (axes.dataLim.y1 - plot.floor))
        axes.set_ylim(plot.floor, high if high > plot.floor else plot.floor + 1.0)


def as_image(svg: str, *, alt: str) -> str:
    """The plot as an HTML <img> that carries its own data: ids of two plots never collide."""
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}">'


RUN_PLOTS: tuple[Plot, ...] = (
    Plot(
        "Accuracy",
        "sampled pass@1, share of problems",
        (Line("eval/pass@1", "pass@1", low="eval/pass@1_low", high="eval/pass@1_high"),),
        ceiling=1.0,
        markers=True,
        note="The band is the 95 % interval over problems.",
    ),
    Plot(
        "Reverse KL",
        "nats per token on visited prefixes",
        (Line("train/reverse_kl", "reverse KL"),),
        note="KL(student‖teacher) as the objective measures it: exact over the full vocabulary, "
        "else on its support.",
    ),
    Plot(
        "Loss",
        "nats per token",
        (Line("train/loss", "loss"),),
        floor=None,
        note="The objective's own value, by the step's divisor. It may be negative on a truncated "
        "support.",
    ),
    Plot(
        "Teacher entropy",
        "nats per token on visited prefixes",
        (Line("rollout/teacher_entropy", "teacher entropy"),),
        note="How unsure the teacher is at the prefixes it has to judge; prefixes that it would "
        "not have written raise it.",
    ),
    Plot(
        "Exponent",
        "mean weight of the teacher in the blend",
        (Line("rollout/exponent", "exponent"),),
        ceiling=1.0,
        note="0 is the student, 1 the teacher.",
    ),
    Plot(
        "Trust region",
        "nats per token",
        (
            Line("rollout/kl_spent", "KL spent"),
            Line("rollout/budget", "budget", style="dashed", limit=True),
        ),
        note="KL(behaviour‖student); never above the budget.",
    ),
    Plot(
        "Response length",
        "tokens",
        (Line("rollout/length", "rollouts"), Line("eval/length", "evaluation", style="dashed")),
    ),
    Plot(
        "Truncated responses",
        "share that reached the length limit",
        (
            Line("rollout/truncated", "rollouts"),
            Line("eval/truncated", "evaluation", style="dashed"),
        ),
        ceiling=1.0,
    ),
    Plot(
        "Gradient norm",
        "before clipping",
        (Line("train/grad_norm", "gradient norm"),),
    ),
    Plot(
        "Time",
        "seconds per step",
        (
            Line("time/step", "step"),
            Line("time/rollout", "rollout", style="dashed"),
            Line("time/train", "update", style="dashed"),
        ),
    ),
)
