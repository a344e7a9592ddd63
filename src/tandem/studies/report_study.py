"""A study in a report: what it declared, what its cells found, and how they came there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from tandem.evaluation.intervals import mean_interval
from tandem.evaluation.record import read_record
from tandem.studies.grid import MAIN, Point, points, varied_rows
from tandem.studies.page import folded, notes, wide_table
from tandem.studies.pictures import Picture
from tandem.studies.plots import RUN_PLOTS
from tandem.studies.report import json_lines
from tandem.studies.report_analyses import analyses
from tandem.studies.report_bands import Group, trajectories
from tandem.studies.report_declared import Grid, declared, hypotheses, what_was_run
from tandem.studies.report_runs import environments
from tandem.studies.report_samples import samples_section
from tandem.studies.report_scatter import sweep_section, sweeps
from tandem.studies.report_tables import axis_figure, per_cent, result_section
from tandem.studies.study_folder import FINAL, Planned, StudyFolder, read_study
from tandem.studies.study_tables import KINDS, study_tables
from tandem.studies.tables import ResultTable

MODELS = dict(KINDS)
REFERENCES_SAID = "Intervals over problems."
WATCHED_SAID = "pass@1 while training is on validation problems; the tables are on the test's."


def study_part(path: Path, *, target: Path) -> tuple[str, str]:
    """Title and body about a study's folder. target: the folder that the page lies in."""
    study = read_study(path)
    try:
        tables, missing = study_tables(study), ""
    except ValueError as error:
        tables, missing = [], f'<p class="none">No table: {escape(str(error))}.</p>'
    body = [
        *what_was_run(study),
        *hypotheses(study, tables),
        "<h2>Results</h2>",
        missing,
        *_results(study, tables),
        *_references(study),
        "<h2>Trajectories</h2>",
        *_trajectories(study),
        "<h2>Sweeps</h2>",
        sweep_section(sweeps(study.chosen, titles(study))),
        analyses([path], name=lambda folder: _called(study, folder)),
        _samples(study),
        "<h2>Details</h2>",
        *declared(study, target=target),
        environments(list(environment_facts(study))),
    ]
    return study.file.name, "\n".join(body)


def titles(study: StudyFolder) -> dict[str, str]:
    return {row: study.file.title(row) for row in study.file.rows}


def _indexes(study: StudyFolder) -> dict[str, int]:
    """Each row's colour, the same in every picture."""
    return {title: index for index, title in enumerate(titles(study).values())}


def _results(study: StudyFolder, tables: Sequence[ResultTable]) -> Iterator[str]:
    for table in tables:
        if table.point == MAIN and table.model is not None:
            name = MODELS[table.model].capitalize()
            yield f"<section><h3>{escape(name)}</h3>{result_section(table)}</section>"
    for name, axis in study.file.axes.items():
        # There is no table where runs are missing.
        own = [table for table in tables if table.point is not None and table.point.axis == name]
        if own:
            yield from _axis(study, axis.title or name, axis.main, own)


def _axis(study: StudyFolder, title: str, main: str, own: Sequence[ResultTable]) -> Iterator[str]:
    yield f"<section><h3>{escape(title)}</h3>"
    if main:
        yield f'<p class="none">In the main table: {escape(main)}.</p>'
    final = axis_picture(study, title, own)
    if final is not None:
        picture = final.html(salt=f"axis {title}")
        yield f'<section class="plots alone">{picture}</section>'
    for table in own:
        short = table.title.removeprefix(f"{study.file.name}, ")
        yield folded(short, result_section(table, picture_too=False))
    yield "</section>"


def axis_picture(study: StudyFolder, title: str, own: Sequence[ResultTable]) -> Picture | None:
    """The final models of an axis; None where no runs are done."""
    final = [(t.point.value, t) for t in own if t.point is not None and t.model == FINAL]
    return axis_figure(title, final, indexes=_indexes(study)) if final else None


def _references(study: StudyFolder) -> Iterator[str]:
    header, rows = reference_grid(study)
    if rows:
        yield "<section><h3>For scale</h3>"
        yield wide_table("teacher and untrained student", header, rows)
        yield notes([REFERENCES_SAID]) + "</section>"


def reference_grid(study: StudyFolder) -> Grid:
    """Header and cells: teacher and untrained student, judged as the runs were."""
    rows: list[list[str]] = []
    for point in points(study.file):
        for role in ("student", "teacher"):
            record = read_record(study.path / "references" / point.slug / role, FINAL)
            if record is not None:
                score = mean_interval(list(record.scores.values()), samples=record.samples)
                name = "teacher" if role == "teacher" else "student before training"
                rows.append([name, study.where(point), per_cent(score)])
    return ("model", "at", "pass@1, % [95 %]"), rows


def groups(study: StudyFolder, point: Point) -> list[Group]:
    """The reporting runs of each row at a point, those that began."""
    found: list[Group] = []
    for index, (row, title) in enumerate(titles(study).items()):
        at = point if row in varied_rows(study.file, point) else MAIN
        cells = [cell for cell in study.cells("reporting", at) if cell.row == row]
        runs = {
            cell.seed: json_lines(study.run(cell) / "metrics.jsonl")
            for cell in sorted(cells, key=lambda cell: cell.seed)
            if (study.run(cell) / "config.yaml").is_file()
        }
        if runs and (at == point or row == study.file.baseline):
            found.append(Group(title, runs, index))
    return found


def _trajectories(study: StudyFolder) -> Iterator[str]:
    found = groups(study, MAIN)
    if not found:
        yield '<p class="none">No reporting run has begun.</p>'
        return
    yield trajectories(found)
    yield notes([WATCHED_SAID])
    accuracy = [plot for plot in RUN_PLOTS if plot.title == "Accuracy"]
    for point in points(study.file)[1:]:
        at = groups(study, point)
        if at:
            yield folded(f"Accuracy, {study.where(point)}", trajectories(at, accuracy))


def _samples(study: StudyFolder) -> str:
    """Samples of every row's run on the first reporting seed."""
    seed = study.file.seeds.reporting[0]
    runs = {
        study.file.title(cell.row): json_lines(study.run(cell) / "samples.jsonl")
        for cell in study.cells("reporting", MAIN)
        if cell.seed == seed and (study.run(cell) / "config.yaml").is_file()
    }
    return samples_section(runs, seed=seed)


def environment_facts(study: StudyFolder) -> Iterator[Mapping[str, object]]:
    for folder in dict.fromkeys(study.run(cell) for cell in study.plan):
        path = folder / "environment.json"
        if path.is_file():
            yield json.loads(path.read_bytes())


def _called(study: StudyFolder, folder: Path) -> str:
    """What a folder in the study is called: by its cell, or by its place."""
    cells: dict[Path, Planned] = {}
    for cell in study.plan:
        cells.setdefault(study.run(cell), cell)
    found = cells.get(folder)
    if found is None:
        return study.file.name if folder == study.path else str(folder.relative_to(study.path))
    at = f", {study.where(found.point)}" if found.point.axis else ""
    tuning = ", tuning" if found.phase == "tuning" else ""
    return f"{study.file.title(found.row)}{at}{tuning}, seed {found.seed}"
