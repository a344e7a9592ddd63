"""What a person watches while suites are answered and graded, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from tandem.evaluation.intervals import Interval
from tandem.evaluation.suite_result import SuiteResult
from tandem.front.live import BAR_WIDTH, duration

Progress = Callable[[int, int], None]

SECONDS_BETWEEN_LINES = 15.0
"""Off a terminal, how often a line says how far things are."""
HEADER = ("suite", "problems", "pass@1", "pass@k", "maj@k", "tokens", "cut", "no answer", "loops")


@contextmanager
def watching(console: Console) -> Iterator[Callable[[str], Progress]]:
    """Makes the progress callback (done, total) of a phase from its name: a bar with the time left
    on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        yield lambda name: lines(name, console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(BAR_WIDTH),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        yield lambda name: _bar(name, bars)


def _bar(name: str, bars: Bars) -> Progress:
    # Made when its phase begins: the phases before it say nothing about its time.
    made: list[object] = []

    def show(done: int, total: int) -> None:
        if not made:
            made.append(bars.add_task(name, total=total, completed=done))
        bars.update(made[0], completed=done, total=total)  # pyright: ignore[reportArgumentType]

    return show


def lines(name: str, console: Console, *, now: Callable[[], float] = time.monotonic) -> Progress:
    """A progress callback that prints a line with the time left now and then."""
    began: list[tuple[float, int]] = []
    last = 0.0

    def show(done: int, total: int) -> None:
        nonlocal last
        moment = now()
        if not began:
            # Its phase begins now: what came before says nothing about its time.
            began.append((moment, done))
            last = moment
        if moment - last < SECONDS_BETWEEN_LINES or done == total:
            return
        last = moment
        start, had = began[0]
        left = ""
        if done > had:
            left = f", {duration((moment - start) / (done - had) * (total - done))} left"
        console.print(Text(f"{name} {done:,}/{total:,}{left}"), soft_wrap=True)

    return show


def table(results: Sequence[SuiteResult]) -> list[str]:
    """One line per suite under a header, in columns; per cent, with intervals over problems."""
    rows = [HEADER, *(_row(result) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _row(result: SuiteResult) -> tuple[str, ...]:
    at_1, n = result.at_1, result.at_1.samples
    votes = [f"{k}: {_interval(one.accuracy)}" for k, one in result.majority.items()]
    return (
        result.suite,
        f"{len(at_1.scores):,} × {n}",
        _interval(at_1.pass_at_1),
        f"{n}: {_interval(result.passed[n])}",
        votes[-1] if votes else "",
        f"{at_1.mean_length:,.1f}",
        _share(at_1.truncated),
        _share(at_1.no_answer),
        _share(result.looping),
    )


def notes(results: Sequence[SuiteResult]) -> list[str]:
    """What the table cannot show of each suite: problems that were not asked."""
    found: list[str] = []
    for result in results:
        if result.at_1.dropped:
            found.append(f"{result.suite}: {result.at_1.dropped} problems over the prompt limit")
        if result.left_out:
            found.append(f"{result.suite}: {result.left_out} problems not asked (limits.problems)")
    return found


def _interval(found: Interval) -> str:
    return f"{100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
