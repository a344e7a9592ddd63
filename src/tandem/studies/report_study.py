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
from tandem.studies.plots import RUN_PLOTS
from tandem.studies.report import json_lines
from tandem.studies.report_analyses import analyses
from tandem.studies.report_bands import Group, trajectories
from tandem.studies.report_declared import declared, hypotheses, what_was_run
from tandem.studies.report_runs import environments
from tandem.studies.report_samples import samples_section
from tandem.studies.report_scatter import sweep_section, sweeps
from tandem.studies.report_tables import axis_figure, per_cent, result_section
from tandem.studies.study_folder import FINAL, Planned, StudyFolder, read_study
from tandem.studies.study_tables import study_tables
from tandem.studies.tables import ResultTable


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
        sweep_section(sweeps(study.chosen, _titles(study))),
        analyses([path], name=lambda folder: _called(study, folder)),
        _samples(study),
        "<h2>Details</h2>",
        *declared(study, target=target),
        environments(list(_environments(study))),
    ]
    return study.file.name, "\n".join(body)


def _titles(study: StudyFolder) -> dict[str, str]:
    return {row: study.file.title(row) for row in study.file.rows}


def _indexes(study: StudyFolder) -> dict[str, int]:
    """Each row's colour, the same in every picture."""
    return {title: index for index, title in enumerate(_titles(study).values())}


def _results(study: StudyFolder, tables: Sequence[ResultTable]) -> Iterator[str]:
    # A table's title says its point; there is none where runs are missing.
    main = f"{study.file.name}, main table: "
    for table in tables:
        if table.title.startswith(main):
            name = table.title.removeprefix(main).capitalize()
            yield f"<section><h3>{escape(name)}</h3>{result_section(table)}</section>"
    for name, axis in study.file.axes.items():
        title = axis.title or name
        own = [
            (value, table)
            for value in axis.values
            for table in tables
            if table.title.startswith(f"{study.file.name}, {title} {value}: ")
        ]
        if own:
            yield from _axis(study, title, axis.main, own)


def _axis(
    study: StudyFolder, title: str, main: str, own: Sequence[tuple[str, ResultTable]]
) -> Iterator[str]:
    yield f"<section><h3>{escape(title)}</h3>"
    if main:
        yield f'<p class="none">In the main table: {escape(main)}.</p>'
    final = [(value, table) for value, table in own if table.title.endswith(": final model")]
    if final:
        picture = axis_figure(title, final, indexes=_indexes(study))
        yield f'<section class="plots alone">{picture}</section>'
    for _, table in own:
        short = table.title.removeprefix(f"{study.file.name}, ")
        yield folded(short, result_section(table, picture_too=False))
    yield "</section>"


def _references(study: StudyFolder) -> Iterator[str]:
    """Teacher and untrained student, judged as the runs were."""
    rows: list[list[str]] = []
    for point in points(study.file):
        for role in ("student", "teacher"):
            record = read_record(study.path / "references" / point.slug / role, FINAL)
            if record is not None:
                score = mean_interval(list(record.scores.values()), samples=record.samples)
                name = "teacher" if role == "teacher" else "student before training"
                rows.append([name, _where(study, point), per_cent(score)])
    if rows:
        yield "<section><h3>For scale</h3>"
        yield wide_table("teacher and untrained student", ("model", "at", "pass@1, % [95 %]"), rows)
        yield notes(["Intervals over problems."]) + "</section>"


def _where(study: StudyFolder, point: Point) -> str:
    if not point.axis:
        return "main table"
    return f"{study.file.axes[point.axis].title or point.axis} {point.value}"


def _groups(study: StudyFolder, point: Point) -> list[Group]:
    """The reporting runs of each row at a point, those that began."""
    titles, found = _titles(study), []
    for index, row in enumerate(titles):
        at = point if row in varied_rows(study.file, point) else MAIN
        cells = [cell for cell in study.cells("reporting", at) if cell.row == row]
        runs = {
            cell.seed: json_lines(study.run(cell) / "metrics.jsonl")
            for cell in sorted(cells, key=lambda cell: cell.seed)
            if (study.run(cell) / "config.yaml").is_file()
        }
        if runs and (at == point or row == study.file.baseline):
            found.append(Group(titles[row], runs, index))
    return found


def _trajectories(study: StudyFolder) -> Iterator[str]:
    groups = _groups(study, MAIN)
    if not groups:
        yield '<p class="none">No reporting run has begun.</p>'
        return
    yield trajectories(groups)
    yield notes(["pass@1 while training is on validation problems; the tables are on the test's."])
    accuracy = [plot for plot in RUN_PLOTS if plot.title == "Accuracy"]
    for point in points(study.file)[1:]:
        at = _groups(study, point)
        if at:
            yield folded(f"Accuracy, {_where(study, point)}", trajectories(at, accuracy))


def _samples(study: StudyFolder) -> str:
    """Samples of every row's run on the first reporting seed."""
    seed = study.file.seeds.reporting[0]
    runs = {
        study.file.title(cell.row): json_lines(study.run(cell) / "samples.jsonl")
        for cell in study.cells("reporting", MAIN)
        if cell.seed == seed and (study.run(cell) / "config.yaml").is_file()
    }
    return samples_section(runs, seed=seed)


def _environments(study: StudyFolder) -> Iterator[Mapping[str, object]]:
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
    at = f", {_where(study, found.point)}" if found.point.axis else ""
    tuning = ", tuning" if found.phase == "tuning" else ""
    return f"{study.file.title(found.row)}{at}{tuning}, seed {found.seed}"
