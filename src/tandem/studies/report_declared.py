"""What a study declared beforehand, and what became of each of its cells and hypotheses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from tandem.studies.choosing import described, sweep_notes
from tandem.studies.grid import MAIN
from tandem.studies.page import facts, folded, notes, pre, wide_table
from tandem.studies.report_runs import link
from tandem.studies.report_tables import bounds, points
from tandem.studies.study_folder import DECLARED, Planned, StudyFolder, cell_end
from tandem.studies.study_tables import KINDS
from tandem.studies.tables import ResultTable

Grid = tuple[Sequence[str], Sequence[Sequence[str]]]
_VERDICTS = {
    "better": "shown",
    "worse": "the opposite is shown",
    "no difference shown": "not shown",
}
_MODELS = {"final": KINDS[0][1], "selected": KINDS[1][1]}


def what_was_run(study: StudyFolder) -> Iterator[str]:
    """Heading, how far the study is, and its rows with what tuning chose."""
    file = study.file
    yield f"<header><h1>{escape(file.name)}</h1><p>{escape(sentence(study))}</p></header>"
    states = _states(study)
    shown = [("cells done", f"{states['done'] + states['diverged']} of {states.total()}")]
    if states["diverged"]:
        shown.append(("of them diverged", str(states["diverged"])))
    shown += [
        ("tuning seeds", ", ".join(map(str, file.seeds.tuning)) or "none"),
        ("reporting seeds", _listed(file.seeds.reporting)),
    ]
    yield facts(shown)
    yield "<h2>What was run</h2>"
    yield wide_table("what was run", *row_grid(study), words=("set", "chosen"))
    yield notes(axis_notes(study))


def sentence(study: StudyFolder) -> str:
    """What the study is, in a sentence."""
    file = study.file
    seeds = len(file.seeds.reporting)
    return (
        f"A study of {len(file.rows)} methods over {file.base} on {seeds} "
        f"seed{'s' if seeds > 1 else ''}, judged on {file.judging.problems} test problems × "
        f"{file.judging.samples} samples; the baseline is {file.title(file.baseline)}."
    )


def row_grid(study: StudyFolder) -> Grid:
    """Header and cells: each row, what tuning chose for it, and how many of its runs are done."""
    header = ("row", "set", "settings tried", "chosen", "runs done")
    return header, [_row(study, row) for row in study.file.rows]


def axis_notes(study: StudyFolder) -> list[str]:
    """The values of each axis and who they are for, and how rows were tuned."""
    file = study.file
    axes = [
        f"Axis {axis.title or name}: {', '.join(axis.values)}, for "
        f"{', '.join(map(file.title, axis.rows))}."
        for name, axis in file.axes.items()
    ]
    return [*axes, *sweep_notes(file)]


def hypotheses(study: StudyFolder, tables: Sequence[ResultTable]) -> Iterator[str]:
    """What was expected, and whether the runs show it. tables: all of the study's."""
    grid, remarks = hypothesis_grid(study, tables)
    yield "<h2>Hypotheses</h2>"
    yield wide_table("hypotheses", *grid, words=("expected", "rows"))
    yield notes(remarks)


def hypothesis_grid(
    study: StudyFolder, tables: Sequence[ResultTable]
) -> tuple[Grid, tuple[str, ...]]:
    """Header and cells, a line for each hypothesis, and what is to be said of them."""
    found = [table for table in tables if table.point is None]
    expected = study.file.hypotheses
    # One line for each, in their order; no table as long as any row of them lacks runs.
    lines = found[0].lines if found else (None,) * len(expected)
    rows: list[list[str]] = []
    for one, line in zip(expected, lines, strict=True):
        against = None if line is None else line.against
        rows.append(
            [
                one.text,
                f"{study.file.title(one.row)} over {study.file.title(one.than)}",
                _MODELS[one.model],
                points(against.difference) if against else "",
                bounds(against.corrected) if against else "",
                f"{100 * against.detectable:.1f}" if against else "",
                _VERDICTS[against.verdict] if against else "not judged yet",
            ]
        )
    header = (
        *("expected", "rows", "model", "difference, points [95 %]", "corrected"),
        *("detectable", "verdict"),
    )
    return (header, rows), found[0].notes if found else ("Declared before this study's runs.",)


def declared(study: StudyFolder, *, target: Path) -> Iterator[str]:
    """Every cell with a link to its run, and the study file as it was declared."""
    cells = "".join(
        f"<li>{link(study.run(cell) / 'report.html', cell.folder, target=target)}: "
        f"{escape(_said(study, cell))}</li>"
        for cell in study.plan
    )
    yield folded(f"All {len(study.plan)} cells", f'<ul class="notes">{cells}</ul>')
    text = (study.path / DECLARED).read_text(encoding="utf-8")
    yield folded("The study as it was declared", pre(text))


def _row(study: StudyFolder, row: str) -> list[str]:
    file, settings = study.file, study.file.rows[row]
    chosen = study.chosen.get(row)
    if len(settings.sweep) == 1:
        setting = "no choice"
    else:
        setting = described(settings.sweep[chosen["chosen"]]) if chosen else "not chosen yet"
    cells = [cell for cell in study.cells("reporting", MAIN) if cell.row == row]
    ends = [end for cell in cells if (end := cell_end(study.run(cell))) is not None]
    diverged = sum(bool(end.diverged) for end in ends)
    runs = f"{len(ends)} of {len(file.seeds.reporting)}"
    return [
        f"{file.title(row)}{' (baseline)' if row == file.baseline else ''}",
        described(settings.set) if settings.set else "as in the base",
        f"{len(settings.sweep)}" if len(settings.sweep) > 1 else "1, declared",
        setting,
        f"{runs}, {diverged} diverged" if diverged else runs,
    ]


def _states(study: StudyFolder) -> Counter[str]:
    """How many different runs are done, diverged or open."""
    return Counter(_state(folder) for folder in {study.run(cell) for cell in study.plan})


def _state(folder: Path) -> str:
    end = cell_end(folder)
    if end is None:
        return "begun" if folder.is_dir() else "open"
    return "diverged" if end.diverged else "done"


def _said(study: StudyFolder, cell: Planned) -> str:
    end = cell_end(study.run(cell))
    if end is None:
        return _state(study.run(cell))
    took = f"{end.seconds:.0f} s" if end.whole else f"{end.seconds:.0f} s in its last session"
    return f"diverged: {end.diverged}" if end.diverged else f"done in {took}"


def _listed(seeds: Sequence[int]) -> str:
    return (
        f"{len(seeds)} ({', '.join(map(str, seeds))})"
        if len(seeds) > 3
        else ", ".join(map(str, seeds))
    )
