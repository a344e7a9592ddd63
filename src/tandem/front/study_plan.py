"""What `tandem study --dry-run` prints: every cell, how many there are, and how long they take."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from tandem.front.live import duration
from tandem.studies.choosing import described, settings_so_far, sweep_notes
from tandem.studies.grid import Cell, Study, distinct, points, reporting_cells, tuning_cells
from tandem.studies.study_folder import CellEnd, cell_end


def plan_lines(study: Study, *, jobs: int) -> list[str]:
    """The study in words: what it expects, its rows and axes, its cells, and the time left."""
    file = study.file
    tuning = tuning_cells(study)
    reporting = reporting_cells(study, settings_so_far(file, study.folder))
    lines = [f"{file.name}: over {file.base}, in {study.folder}"]
    for one in file.hypotheses:
        lines.append(
            f"expected: {one.text} ({file.title(one.row)} over {file.title(one.than)}, "
            f"{one.model} model, pass@1 on the test split)"
        )
    for name, row in file.rows.items():
        mark = " (baseline)" if name == file.baseline else ""
        lines.append(f"row {name}: {file.title(name)}{mark}")
        if len(row.sweep) > 1:
            lines += [f"  setting {i}: {described(s)}" for i, s in enumerate(row.sweep)]
    for name, axis in file.axes.items():
        values = ", ".join(axis.values)
        main = f"; in the main table {axis.main}" if axis.main else ""
        lines.append(f"axis {name}: {values} for {', '.join(axis.rows)}{main}")
    lines += [f"model {name}: by {made.recipe}" for name, made in file.models.items()]
    lines += sweep_notes(file)
    lines += _cells(tuning) + _cells(reporting)
    return [*lines, *_count(study, tuning, reporting, jobs)]


def ends(study: Study, cells: Sequence[Cell]) -> dict[str, CellEnd | None]:
    """Each different run of these cells, by its folder, and how it ended if it has."""
    folders = dict.fromkeys(distinct(cells).values())
    return {folder: cell_end(study.runs / folder) for folder in folders}


def mean_seconds(found: Sequence[CellEnd | None]) -> float | None:
    """What a cell takes, from those that were done in one go; None before the first."""
    seconds = [end.seconds for end in found if end is not None and end.whole and not end.diverged]
    return sum(seconds) / len(seconds) if seconds else None


def _cells(cells: Sequence[Cell]) -> list[str]:
    """One line per folder of seeds."""
    named = sorted((cell.config.name.rpartition("/")[0], cell.seed) for cell in cells)
    return [
        f"{place.partition('/')[2]}: seeds {', '.join(str(seed) for _, seed in group)}"
        for place, group in groupby(named, key=lambda one: one[0])
    ]


def _count(study: Study, tuning: Sequence[Cell], reporting: Sequence[Cell], jobs: int) -> list[str]:
    first, second = ends(study, tuning), ends(study, reporting)
    found = [*first.values(), *second.values()]
    done = sum(end is not None for end in found)
    axes = len(points(study.file)) - 1
    lines = [
        f"{len(first)} tuning and {len(second)} reporting cells ({axes} values of axes), "
        f"{len(found)} in all, {done} of them done"
    ]
    each, left = mean_seconds(found), len(found) - done
    where = f"{jobs} processes" if jobs > 1 else "one process"
    if each is not None:
        lines.append(
            f"{each:.0f} s a cell so far: about {duration(each * left / jobs)} left on {where}"
        )
    elif study.file.time_limit is not None:
        most = duration(study.file.time_limit * left / jobs)
        lines.append(
            f"no cell is done yet; at {study.file.time_limit:g} s each, as declared, {most} on "
            f"{where}"
        )
    else:
        lines.append("no cell is done yet, so there is no estimate of the time")
    return lines
