"""What a process of a study does: make a model, train and judge a cell, judge a model as it is.

Each of them is a pure function of what it is given and of its folder, so that doing it again after
an interruption gives what was missing and nothing else.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem import run
from tandem.evaluation.record import FOLDER, Record, read_record, record_of, write_record
from tandem.front.live import quiet_libraries
from tandem.models.settings import ModelSettings
from tandem.studies.runner import Tell
from tandem.studies.study_file import JudgingSettings
from tandem.studies.study_folder import FINAL, SELECTED, CellEnd, cell_end, write_cell_end
from tandem.training.config import EvaluationSettings, RunConfig, config_from_dict
from tandem.training.events import Event, Listener, StepDone
from tandem.training.keeping import BEST, read_selected
from tandem.training.pretrain import PretrainSettings, pretrain
from tandem.training.update import NotFinite


@dataclass(frozen=True, slots=True)
class CellWork:
    """A cell, as plain data. judging: None for a tuning run, which never sees the test split."""

    config: dict[str, Any]
    runs: str
    judging: JudgingSettings | None


@dataclass(frozen=True, slots=True)
class ModelWork:
    """A model to make, and its folder."""

    settings: PretrainSettings
    folder: str


@dataclass(frozen=True, slots=True)
class ReferenceWork:
    """A model that no run of the study trains, judged as the runs of `config` are. folder: where
    its `evaluations/` go."""

    model: ModelSettings
    config: dict[str, Any]
    judging: JudgingSettings
    folder: str


def do_cell(work: CellWork, tell: Tell) -> CellEnd:
    """Train a cell from where it stands and, unless it only tunes, judge its two models.

    tell: (steps done, steps in all). Raises KeyboardInterrupt where it was asked to stop.
    """
    quiet_libraries()
    config = config_from_dict(work.config)
    folder = Path(work.runs) / config.name
    done = cell_end(folder)
    if done is not None:
        return done
    began, whole, diverged = time.monotonic(), not folder.exists(), ""
    if not (folder / "final").is_dir():
        try:
            end = run.train(config, resume=True, runs=work.runs, listener=_steps(tell))
        except NotFinite as error:
            # It has no model to go on with, and would diverge again: that is its result.
            diverged = str(error)
        else:
            if end.interrupted:
                raise KeyboardInterrupt
    if work.judging is not None and not diverged:
        _judge_cell(folder, config, work.judging)
    # Its final and its best model stay; what could be resumed is done.
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    end_of = CellEnd(seconds=time.monotonic() - began, whole=whole, diverged=diverged)
    write_cell_end(folder, end_of)
    return end_of


def make_model(work: ModelWork, tell: Tell) -> None:
    """Make a small model, whole or not at all."""
    quiet_libraries()
    folder = Path(work.folder)
    if folder.is_dir():
        return
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    pretrain(work.settings, output=partial, on_step=lambda done, total, _: tell((done, total)))
    partial.rename(folder)


def judge_reference(work: ReferenceWork, tell: Tell) -> None:
    """Judge a model on the test split, once."""
    del tell
    quiet_libraries()
    folder = Path(work.folder)
    if read_record(folder, FINAL) is None:
        config = config_from_dict(work.config)
        write_record(folder, FINAL, _judge(work.model, config, work.judging, step=None))


def _judge_cell(folder: Path, config: RunConfig, judging: JudgingSettings) -> None:
    """The final and the selected model on the test split, with the same draws."""
    best = read_selected(folder / BEST)
    assert best is not None, "a run that is evaluated after its last step has a best model"
    last = config.training.steps
    for name, model, step in ((FINAL, "final", last), (SELECTED, BEST, best.step)):
        if read_record(folder, name) is not None:
            continue
        if name == SELECTED and step == last:
            # The same weights: what final/ scored is what they score.
            shutil.copyfile(folder / FOLDER / f"{FINAL}.json", folder / FOLDER / f"{SELECTED}.json")
            continue
        settings = config.student.model_copy(update={"path": str(folder / model)})
        write_record(folder, name, _judge(settings, config, judging, step=step))


def _judge(
    model: ModelSettings, config: RunConfig, judging: JudgingSettings, *, step: int | None
) -> Record:
    settings = EvaluationSettings(
        every=1,
        problems=judging.problems,
        samples=judging.samples,
        split="test",
        max_new_tokens=judging.max_new_tokens,
        temperature=judging.temperature,
    )
    result = run.evaluate(
        model,
        task=config.task,
        settings=settings,
        max_prompt_tokens=config.rollout.max_prompt_tokens,
        max_new_tokens=config.rollout.max_new_tokens,
        seed=config.seed,
        slots=config.rollout.slots,
        device=config.device,
        threads=config.threads,
        engine=config.rollout.engine,
    )
    return record_of(result, split="test", step=step)


def _steps(tell: Tell) -> Listener:
    """A listener that passes on how far training has come."""

    def hear(event: Event) -> None:
        if isinstance(event, StepDone):
            tell((event.step, event.total_steps))

    return hear
