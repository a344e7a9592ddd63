"""results/README.md of a study: what it found, to be shown where Markdown is read.

The first line says which hypotheses about the baseline are shown. Pictures are files beside it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tandem.evaluation.record import read_record
from tandem.studies.grid import MAIN, points
from tandem.studies.pictures import Picture
from tandem.studies.plots import RUN_PLOTS
from tandem.studies.report_bands import band_figures, remarks
from tandem.studies.report_declared import axis_notes, hypothesis_grid, row_grid, sentence
from tandem.studies.report_runs import environment_rows
from tandem.studies.report_scatter import MARKS_SAID, sweep_figures, sweeps
from tandem.studies.report_study import (
    MODELS,
    REFERENCES_SAID,
    WATCHED_SAID,
    axis_picture,
    environment_facts,
    groups,
    reference_grid,
    titles,
)
from tandem.studies.report_tables import differences
from tandem.studies.report_tables import points as difference_of
from tandem.studies.study_folder import (
    FINAL,
    SELECTED,
    StudyFolder,
    cell_end,
    last_validation,
    write_whole,
)
from tandem.studies.tables import (
    ResultTable,
    grid_in_markdown,
    in_markdown,
    notes_in_markdown,
    table_in_markdown,
)

PAGE = "README.md"
_WATCHED = ("Accuracy", "Reverse KL")
# Of a run's environment, what says nothing about the study: its own command, seed and session, and
# the build of the system's kernel.
_OWN = ("command", "seed", "resumed_at", "platform")
_BEATS = {"better": "beats", "worse": "does worse than"}


def results_files(
    study: StudyFolder, tables: Sequence[ResultTable], *, command: str
) -> dict[str, str]:
    """Name to text of the page, of its pictures as SVG, and of every run's scores (runs.csv).

    tables: all of the study's. command: what made them, as it was typed.
    """
    pictures: dict[str, str] = {}

    def shown(name: str, picture: Picture) -> str:
        while f"{name}.svg" in pictures:
            name += "-2"
        pictures[f"{name}.svg"] = picture.file()
        note = f"\n\n{in_markdown(picture.note)}" if picture.note else ""
        return f"![{_alt(picture.alt)}]({name}.svg){note}\n"

    remarked: set[str] = set()

    def unsaid(notes: Sequence[str]) -> tuple[str, ...]:
        # Most tables have the same to say of how they were made; once is enough.
        new = tuple(note for note in notes if note not in remarked)
        remarked.update(new)
        return new

    def whole(table: ResultTable) -> str:
        return table_in_markdown(replace(table, notes=unsaid(table.notes)))

    parts = [
        f"# {in_markdown(headline(study, tables))}\n",
        f"{in_markdown(sentence(study))}\n",
        f"```sh\n{command}\n```\n",
    ]
    if study.file.hypotheses:
        grid, notes = hypothesis_grid(study, tables)
        parts.append("## What was expected\n")
        parts += [grid_in_markdown(*grid), notes_in_markdown(unsaid(notes))]
    parts.append("## What was run\n")
    parts += [grid_in_markdown(*row_grid(study)), notes_in_markdown(unsaid(axis_notes(study)))]
    for table in tables:
        if table.point == MAIN and table.model is not None:
            parts.append(f"## Main table: {MODELS[table.model]}\n")
            parts.append(shown(f"differences-{table.model}", differences(table)))
            parts.append(whole(table))
    for name, axis in study.file.axes.items():
        own = [table for table in tables if table.point is not None and table.point.axis == name]
        title = axis.title or name
        parts.append(f"## Axis: {in_markdown(title)}\n")
        if axis.main:
            parts.append(f"In the main table: {in_markdown(axis.main)}.\n")
        picture = axis_picture(study, title, own)
        if picture is not None:
            parts.append(shown(f"axis-{_slug(name)}", picture))
        for table in own:
            assert table.point is not None and table.model is not None
            heading = f"{study.where(table.point)}: {MODELS[table.model]}"
            parts.append(f"### {in_markdown(heading)}\n")
            parts.append(whole(table))
    header, references = reference_grid(study)
    if references:
        parts.append("## For scale\n")
        parts.append(grid_in_markdown(header, references))
        parts.append(notes_in_markdown([REFERENCES_SAID]))
    parts.append("## Trajectories\n")
    found = groups(study, MAIN)
    for picture in band_figures(found, [plot for plot in RUN_PLOTS if plot.title in _WATCHED]):
        parts.append(f"### {in_markdown(picture.title)}\n")
        parts.append(shown(_slug(picture.title), picture))
    parts.append(notes_in_markdown([*remarks(found), WATCHED_SAID]))
    swept = sweep_figures(sweeps(study.chosen, titles(study)))
    if swept:
        parts.append("## Tuning\n")
        parts += [shown(f"sweep-{_slug(picture.title)}", picture) for picture in swept]
        parts.append(notes_in_markdown([MARKS_SAID]))
    parts.append("## Time and environment\n")
    parts.append(notes_in_markdown(_times(study)))
    parts.append(
        grid_in_markdown(
            ("", "in all runs"), environment_rows(list(environment_facts(study)), without=_OWN)
        )
    )
    return {PAGE: "\n".join(parts), "runs.csv": runs_table(study), **pictures}


def headline(study: StudyFolder, tables: Sequence[ResultTable]) -> str:
    """Whether the rows that were expected to beat the baseline do, by the final models."""
    file = study.file
    lines = [line for table in tables if table.point is None for line in table.lines]
    said: list[str] = []
    for one, line in zip(file.hypotheses, lines, strict=bool(lines)):
        if one.than != file.baseline or one.model != "final" or line.against is None:
            continue
        verb = _BEATS.get(line.against.verdict, "does not beat")
        found = difference_of(line.against.difference)
        said.append(f"{file.title(one.row)} {verb} {file.title(one.than)} ({found} points)")
    return f"{file.name}: {'; '.join(said) or 'results'}"


def runs_table(study: StudyFolder) -> str:
    """Every cell's scores as CSV: shares of right answers, and the seconds that its run took.

    A run that diverged has 0, as in tuning and in the tables.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header = ("phase", "axis", "value", "row", "setting", "seed", "seconds", "diverged")
    writer.writerow((*header, "validation", "test_final", "test_selected", "selected_step"))
    for cell in study.plan:
        run = study.run(cell)
        end = cell_end(run)
        if end is None:
            continue
        records = (last_validation(run), read_record(run, FINAL), read_record(run, SELECTED))
        scores = ["" if one is None else f"{one.metrics['eval/pass@1']:.4f}" for one in records]
        if end.diverged:
            scores = ["0.0000", "", ""] if cell.phase == "tuning" else ["", "0.0000", "0.0000"]
        selected = records[2]
        writer.writerow(
            [
                *(cell.phase, cell.axis, cell.value, cell.row, cell.setting, cell.seed),
                *(f"{end.seconds:.1f}", end.diverged),
                *scores,
                "" if selected is None else selected.step,
            ]
        )
    return buffer.getvalue()


def _times(study: StudyFolder) -> list[str]:
    """How many runs there were and how long they took; of those that were done in one go."""
    folders = dict.fromkeys(study.run(cell) for cell in study.plan)
    ends = [end for folder in folders if (end := cell_end(folder)) is not None]
    seconds = sorted(end.seconds for end in ends if end.whole)
    if not seconds:
        return [f"{len(ends)} runs."]
    limit = study.file.time_limit
    meant = f"; a run was meant to take {limit:g} s at most" if limit is not None else ""
    over = sum(one > limit for one in seconds) if limit is not None else 0
    late = f", {over} took longer" if over else ""
    median, places = seconds[len(seconds) // 2], len(points(study.file))
    at = f" at {places} points (the main table, and each value of an axis)" if places > 1 else ""
    return [
        f"{len(ends)} different runs{at}; those that were never interrupted took "
        f"{sum(seconds) / 3600:.1f} hours in all. A run took {median:.0f} s "
        f"(median), {seconds[-1]:.0f} s at the most, with its judgement{meant}{late}."
    ]


def _alt(text: str) -> str:
    return in_markdown(text).replace("[", "\\[").replace("]", "\\]")


def _slug(name: str) -> str:
    """A name as part of a file's."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def write_results_page(
    study: StudyFolder, tables: Sequence[ResultTable], folder: Path, *, command: str
) -> Path:
    """Write the page, its pictures and runs.csv into `folder`; return where the page lies."""
    for name, text in results_files(study, tables, command=command).items():
        write_whole(folder / name, text)
    return folder / PAGE
