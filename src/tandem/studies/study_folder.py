"""runs/<study>/: what a study leaves behind, and how it is read again.

study.yaml    all that was declared: the study file and the recipes that it names
plan.json     every cell: phase, axis, value, row, setting, seed, and its run folder
chosen.json   what tuning found: each row's settings with their scores, and which one won
models/       models that the study made; references/: teacher and untrained student, judged
tuning/, reporting/   one run folder per cell, with cell.json beside its other files
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from tandem.evaluation.record import Record, read_record, step_records
from tandem.settings import Settings
from tandem.studies.grid import Cell, Phase, Point, Study, distinct
from tandem.studies.study_file import StudyFile
from tandem.training.components import build

DECLARED, PLAN, CHOSEN, CELL = "study.yaml", "plan.json", "chosen.json", "cell.json"
FINAL, SELECTED = "test-final", "test-best"
"""Names of the two evaluations on the test split."""


class CellEnd(Settings):
    """cell.json: that a cell is done. seconds: the session that finished it took, and whether it
    began it too (`whole`). diverged: why the run has no model; empty where it has one."""

    seconds: float
    whole: bool
    diverged: str = ""


@dataclass(frozen=True, slots=True)
class Planned:
    """One line of plan.json. folder: relative to the study's."""

    phase: Phase
    axis: str
    value: str
    row: str
    setting: int
    seed: int
    folder: str

    @property
    def point(self) -> Point:
        return Point(self.axis, self.value)


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """A study that has begun, read once. chosen: as in chosen.json, empty before tuning ended."""

    path: Path
    file: StudyFile
    plan: tuple[Planned, ...]
    chosen: Mapping[str, Any]

    def run(self, cell: Planned) -> Path:
        """The run folder of a cell."""
        return self.path / cell.folder

    def cells(self, phase: Phase, point: Point | None = None) -> Iterator[Planned]:
        """The planned cells of a phase, at one point or at all of them."""
        for cell in self.plan:
            if cell.phase == phase and point in (None, cell.point):
                yield cell

    def where(self, point: Point) -> str:
        """What a point of the study is called."""
        if not point.axis:
            return "main table"
        return f"{self.file.axes[point.axis].title or point.axis} {point.value}"


def is_study(path: Path) -> bool:
    """Whether a study began in this folder."""
    return (path / DECLARED).is_file() and (path / PLAN).is_file()


def begin(study: Study) -> None:
    """Write down what the study declares, or hold it against what is written there.

    Raises ValueError where the folder was begun by another declaration, with what changed.
    """
    path = study.folder / DECLARED
    declared = study.declared()
    if path.is_file():
        changed = differences(yaml.safe_load(path.read_text(encoding="utf-8")), declared)
        if changed:
            more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise ValueError(
                f"{study.folder} was begun by another declaration: {changed[0]}{more}; a study "
                "keeps what it declared, so give this one another name"
            )
        return
    if study.folder.is_dir() and any(study.folder.iterdir()):
        raise ValueError(
            f"{study.folder} already holds something that is no study; give the study another name"
        )
    study.folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, yaml.safe_dump(declared, sort_keys=False, allow_unicode=True))


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """In words, every value that two declarations do not share."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: list[str] = []
        for key in dict.fromkeys([*old, *new]):
            within = f"{place}.{key}".removeprefix(".").removeprefix("study.")
            if key not in old:
                found.append(f"{within} is new")
            elif key not in new:
                found.append(f"{within} is gone")
            else:
                found += differences(old[key], new[key], within)
        return found
    return [] if old == new else [f"{place} was {old!r} and is {new!r}"]


def write_plan(study: Study, cells: Sequence[Cell]) -> None:
    """Write plan.json: which run folder each cell's numbers are in."""
    folders = distinct(cells)
    lines = [
        asdict(
            Planned(
                cell.phase,
                cell.point.axis,
                cell.point.value,
                cell.row,
                cell.setting,
                cell.seed,
                folders[cell.config.name].partition("/")[2],
            )
        )
        for cell in cells
    ]
    text = "[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n"
    write_whole(study.folder / PLAN, text)


def read_study(path: Path) -> StudyFolder:
    """Read a study's folder. Raises ValueError where `path` is none."""
    if not is_study(path):
        raise ValueError(f"{path} is no study's folder: it lacks {DECLARED} or {PLAN}")
    declared = yaml.safe_load((path / DECLARED).read_text(encoding="utf-8"))
    chosen = path / CHOSEN
    return StudyFolder(
        path=path,
        file=build(StudyFile, declared["study"], place="", source=str(path / DECLARED)),
        plan=tuple(Planned(**line) for line in json.loads((path / PLAN).read_bytes())),
        chosen=json.loads(chosen.read_bytes()) if chosen.is_file() else {},
    )


def cell_end(run: Path) -> CellEnd | None:
    """How a cell's run ended; None where it has not."""
    path = run / CELL
    return CellEnd(**json.loads(path.read_bytes())) if path.is_file() else None


def write_cell_end(run: Path, end: CellEnd) -> None:
    """Say that a cell is done: the last file that is written into its run folder."""
    write_whole(run / CELL, end.model_dump_json() + "\n")


def last_validation(run: Path) -> Record | None:
    """The last evaluation in the course of a run."""
    names = [name for _, name in step_records(run)]
    return read_record(run, names[-1]) if names else None


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
