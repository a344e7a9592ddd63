"""What an evaluation leaves in a run's folder: every problem's score, so that runs can be paired.

evaluations/step-000060.json is of the student after 60 steps, evaluations/test-final.json of
final/ on the test split, and so on: one file per evaluation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tandem.evaluation.evaluate import EvaluationResult

FOLDER = "evaluations"
_STEP = "step-"


@dataclass(frozen=True, slots=True)
class Record:
    """One evaluation. step: of the model, where that is known. scores: problem id to the mean over
    its samples, in [0, 1]. metrics: the `eval/...` keys."""

    split: str
    samples: int
    step: int | None
    metrics: dict[str, float]
    scores: dict[str, float]


def record_of(result: EvaluationResult, *, split: str, step: int | None) -> Record:
    """What is kept of an evaluation."""
    return Record(split, result.samples, step, result.metrics(), result.scores)


def step_name(step: int) -> str:
    """The name of an evaluation in the course of training."""
    return f"{_STEP}{step:06d}"


def write_step(run: Path, step: int, result: EvaluationResult, *, split: str) -> None:
    """Keep an evaluation in the course of training, after `step` steps."""
    write_record(run, step_name(step), record_of(result, split=split, step=step))


def write_record(run: Path, name: str, record: Record) -> Path:
    """Write evaluations/`name`.json in the run's folder, whole or not at all."""
    path = run / FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(json.dumps(asdict(record), ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def read_record(run: Path, name: str) -> Record | None:
    """The evaluation of that name; None where there is none."""
    path = run / FOLDER / f"{name}.json"
    return Record(**json.loads(path.read_bytes())) if path.is_file() else None


def step_records(run: Path) -> Iterator[tuple[int, str]]:
    """Step and name of the evaluations in the course of training, in order."""
    for path in sorted((run / FOLDER).glob(f"{_STEP}*.json")):
        yield int(path.stem.removeprefix(_STEP)), path.stem


def forget_after(run: Path, last_step: int) -> None:
    """Delete the evaluations after `last_step`: a resumed run makes them again."""
    for step, name in list(step_records(run)):
        if step > last_step:
            (run / FOLDER / f"{name}.json").unlink()
