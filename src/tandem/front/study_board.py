"""What a person watches while a study goes on: cells done of all, what runs now, time left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tandem.evaluation.record import read_record
from tandem.front.live import BAR_WIDTH, duration
from tandem.front.study_plan import ends, mean_seconds
from tandem.studies.choosing import Choice, described, settings_so_far
from tandem.studies.grid import Study, reporting_cells, tuning_cells
from tandem.studies.runner import Begun, Ended, Told
from tandem.studies.study_folder import FINAL, CellEnd, last_validation


class Board:
    """Hears what the processes do. A panel on a terminal; elsewhere a line per finished job."""

    def __init__(self, study: Study, console: Console, *, jobs: int) -> None:
        self._study, self._console, self._jobs = study, console, jobs
        self._ends: list[CellEnd] = []
        self._total = 0
        self._count()
        self._now: dict[int, tuple[str, float, tuple[int, int] | None]] = {}
        self._live = Live(console=console, refresh_per_second=2, get_renderable=self._draw)

    def __enter__(self) -> Self:
        self._say(
            f"{self._study.file.name}: {len(self._ends)} of {self._total} cells done, in "
            f"{self._study.folder}"
        )
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._now.clear()
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, event: Begun | Told | Ended) -> None:
        if isinstance(event, Begun):
            self._now[event.slot] = (event.job.name, time.monotonic(), None)
        elif isinstance(event, Told):
            name, began, _ = self._now[event.slot]
            self._now[event.slot] = (name, began, event.what)
        else:
            name, began, _ = self._now.pop(event.slot)
            seconds = time.monotonic() - began
            if isinstance(event.result, CellEnd):
                self._ends.append(event.result)
                name = f"[{len(self._ends)}/{self._total}] {name}: {self._scored(name)}"
            left = self.seconds_left()
            told = f", about {duration(left)} left" if left else ""
            self._say(f"{name} in {duration(seconds)}{told}")

    def chose(self, choices: Mapping[str, Choice]) -> None:
        """Say which settings won, which are those that chosen.json holds by now."""
        self._count()
        for row, choice in choices.items():
            if choice.tried:
                won = choice.tried[choice.chosen]
                self._say(f"{row}: {described(won.setting)}, {100 * won.mean:.1f} % in tuning")

    def seconds_left(self) -> float | None:
        """Expected seconds to the last cell; None before the first is done."""
        each = mean_seconds(self._ends)
        if each is None:
            return None
        return each * max(0, self._total - len(self._ends)) / self._jobs

    def _count(self) -> None:
        """Count the cells; which of an axis repeat a row is known when tuning has ended."""
        chosen = settings_so_far(self._study.file, self._study.folder)
        cells = [*tuning_cells(self._study), *reporting_cells(self._study, chosen)]
        found = ends(self._study, cells)
        self._ends = [end for end in found.values() if end is not None]
        self._total = len(found)

    def _scored(self, name: str) -> str:
        folder = self._study.folder / name
        record = read_record(folder, FINAL) or last_validation(folder)
        if self._ends[-1].diverged or record is None:
            return f"diverged ({self._ends[-1].diverged})"
        return f"pass@1 {100 * record.metrics['eval/pass@1']:.1f} % ({record.split})"

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def _draw(self) -> Group:
        bars = Table.grid(padding=(0, 2))
        done, left = len(self._ends), self.seconds_left()
        bars.add_row(
            Text("cells", style="bold"),
            ProgressBar(total=max(1, self._total), completed=done, width=BAR_WIDTH),
            f"{done}/{self._total}",
            Text(f"{duration(left)} left" if left else "", style="cyan"),
        )
        for name, began, progress in self._now.values():
            step, total = progress or (0, 1)
            bars.add_row(
                Text(name),
                ProgressBar(total=max(1, total), completed=step, width=BAR_WIDTH),
                f"{step}/{total}" if progress else "",
                duration(time.monotonic() - began),
            )
        return Group(bars)
