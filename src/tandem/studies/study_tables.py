"""The tables of a study: what it expected, its rows at the main point, each value of each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tandem.evaluation.record import Record, read_record
from tandem.studies.choosing import described, flat, sweep_notes
from tandem.studies.grid import MAIN, Point, points, varied_rows
from tandem.studies.rating import Rated, compared, tested, zero_like
from tandem.studies.study_folder import FINAL, SELECTED, Planned, StudyFolder, cell_end
from tandem.studies.tables import ResultTable

KINDS = ((FINAL, "final model"), (SELECTED, "best model on validation"))


def study_tables(study: StudyFolder, *, baseline: str | None = None) -> list[ResultTable]:
    """Every table of a study, of what is done so far. baseline: another row than the declared.

    Raises ValueError where no two rows have finished runs yet, or the baseline is no row.
    """
    base = baseline or study.file.baseline
    if base not in study.file.rows:
        raise ValueError(
            f"{base!r} is no row of this study; there are {', '.join(study.file.rows)}"
        )
    expected = _hypotheses(study)
    tables = [] if expected is None else [expected]
    tables += [
        table
        for point in points(study.file)
        for name, kind in KINDS
        if (table := _table(study, point, name, kind, base)) is not None
    ]
    if not tables:
        raise ValueError(f"{study.path} has no results to compare yet: finish it with tandem study")
    return tables


def _table(study: StudyFolder, point: Point, name: str, kind: str, base: str) -> ResultTable | None:
    """One table; None where the baseline or all others lack runs."""
    rows = varied_rows(study.file, point)
    if base not in rows:
        rows = [base, *rows]
    rated: list[Rated] = []
    remarks: list[str] = []
    seeds = len(study.file.seeds.reporting)
    every = _scored([(point, row, name) for row in rows], study)
    for row, (found, diverged) in zip(rows, every, strict=True):
        if len(found) < seeds:
            remarks.append(f"{study.file.title(row)}: {len(found)} of {seeds} runs are done.")
        # A pair of seeds is the least that can be compared by seeds.
        if len(found) < min(2, seeds):
            continue
        rated.append(Rated(study.file.title(row), found, _setting(study, row, point)))
        if diverged:
            remarks.append(
                f"{study.file.title(row)}: {len(diverged)} of {len(found)} runs diverged (seeds "
                f"{', '.join(map(str, diverged))}) and score 0."
            )
    labels = [one.label for one in rated]
    if len(rated) < 2 or study.file.title(base) not in labels:
        return None
    title = f"{study.file.name}, {study.where(point)}: {kind}"
    notes = sweep_notes(study.file, baseline=base)
    found = compared(title, rated, baseline=study.file.title(base), notes=notes)
    return replace(found, point=point, model=name, remarks=tuple(remarks))


def _hypotheses(study: StudyFolder) -> ResultTable | None:
    """What was expected, one line each; None while a row of them lacks runs."""
    rows: dict[str, Rated] = {}
    pairs: list[tuple[str, str]] = []
    seeds = len(study.file.seeds.reporting)
    for one in study.file.hypotheses:
        name = FINAL if one.model == "final" else SELECTED
        both = (one.row, one.than)
        for row, (found, _) in zip(
            both, _scored([(MAIN, row, name) for row in both], study), strict=True
        ):
            if len(found) < min(2, seeds):
                return None
            label = study.file.title(row)
            rows[f"{row} {name}"] = Rated(label if name == FINAL else f"{label} (best)", found)
        pairs.append((f"{one.row} {name}", f"{one.than} {name}"))
    said = [
        f"{number}. {one.text}: {study.file.title(one.row)} over {study.file.title(one.than)}, "
        f"{one.model} model."
        for number, one in enumerate(study.file.hypotheses, start=1)
    ]
    title = f"{study.file.name}, what was expected"
    return tested(
        title, rows, pairs, notes=["Declared before this study's runs: " + " ".join(said)]
    )


def _scored(
    asked: Sequence[tuple[Point, str, str]], study: StudyFolder
) -> list[tuple[dict[int, Record], list[int]]]:
    """`_records` of each (point, row, evaluation), a diverged run with 0 on all problems of the
    others: without any model of any row there is nothing to say which those are."""
    every = [_records(study, *one) for one in asked]
    like = next((record for found, _ in every for record in found.values()), None)
    if like is None:
        return every
    return [
        (dict(sorted((found | dict.fromkeys(diverged, zero_like(like))).items())), diverged)
        for found, diverged in every
    ]


def _records(
    study: StudyFolder, point: Point, row: str, name: str
) -> tuple[dict[int, Record], list[int]]:
    """Seed to evaluation of a row's finished runs, and the seeds of those that diverged."""
    found: dict[int, Record] = {}
    diverged: list[int] = []
    for cell in _cells(study, point, row):
        record, end = read_record(study.run(cell), name), cell_end(study.run(cell))
        if record is not None:
            found[cell.seed] = record
        elif end is not None and end.diverged:
            diverged.append(cell.seed)
    return found, diverged


def _cells(study: StudyFolder, point: Point, row: str) -> list[Planned]:
    """A row's runs at a point: those of the main table where the axis leaves the row alone."""
    at = point if row in varied_rows(study.file, point) else MAIN
    return [cell for cell in study.cells("reporting", at) if cell.row == row]


def _setting(study: StudyFolder, row: str, point: Point) -> str:
    """What tuning chose, but for what the point of an axis has instead."""
    sweep = study.file.rows[row].sweep
    chosen = study.chosen.get(row)
    if not chosen or len(sweep) < 2:
        return ""
    setting = flat(sweep[chosen["chosen"]])
    if point.axis and row in varied_rows(study.file, point):
        instead = flat(study.file.axes[point.axis].values[point.value])
        setting |= {key: instead[key] for key in setting if key in instead}
    return described(setting)
