"""The documented Python API: what the command line does, in a few lines of code.

    from tandem.run import train

    result = train("recipes/arithmetic.yaml", overrides=["seed=1", "training.steps=40"])
    print(result.folder, result.metrics["eval/pass@1"])

Everything a run is made of is wired together here and nowhere else.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tandem.evaluation import EvaluationResult
from tandem.evaluation.record import forget_after
from tandem.front.alone import alone
from tandem.models.loading import LoadedModel
from tandem.models.settings import ModelSettings
from tandem.models.vocabulary import silenced_ids
from tandem.studies.report import write_report
from tandem.tasks.base import Task
from tandem.training.checkpoint import list_checkpoints, load_checkpoint, sweep
from tandem.training.claim import claim, has_begun
from tandem.training.config import (
    EvaluationSettings,
    RunConfig,
    changed_config,
    dump_config,
    load_config,
    plain_data,
)
from tandem.training.environment import environment
from tandem.training.events import Finished, Listener, Note, Phase, Saved, Started, silent
from tandem.training.keeping import BEST, SELECTED, Selected, keeping_best
from tandem.training.loop import LoopEnd, Run, train_loop
from tandem.training.model_card import save_final
from tandem.training.parallel import World, open_world, resolve_device
from tandem.training.rehearsal import rehearse
from tandem.training.tracking import LineLog
from tandem.wiring import assemble, estimate_memory, grade

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run leaves behind.

    folder: config.yaml, metrics.jsonl, samples.jsonl, report.html, evaluations/, checkpoints/ and,
    if the run was not interrupted, final/; best/ where it was watched on validation problems.
    steps: optimiser steps taken. metrics: the last value of each key.
    """

    folder: Path
    steps: int
    interrupted: bool
    metrics: dict[str, float]


def train(
    config: RunConfig | str | Path,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    listener: Listener = silent,
    runs: str | Path = "runs",
) -> TrainResult:
    """Train a student by a recipe: a file, or a configuration made in Python.

    overrides: `section.key=value`. resume: go on from the last checkpoint of the run of that name,
    or begin if there is none. listener: told what happens (training/events.py). runs: the folder
    that holds run folders. Raises ValueError, in one sentence, for whatever the user can mend.
    """
    config = _resolve(config, overrides)
    folder = Path(runs) / config.name
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with open_world(resolve_device(config.device)) as world, claim(folder, first=world.first):
        tell = listener if world.first else silent
        end = _train(config, folder, world, resume=resume, listener=tell)
        # What the run held is gone with its frame; reference cycles go now, before the group does.
        gc.collect()
    return TrainResult(folder, end.step, end.interrupted, end.metrics)


def evaluate(
    model: ModelSettings | str,
    *,
    task: Task,
    settings: EvaluationSettings,
    max_prompt_tokens: int,
    max_new_tokens: int,
    seed: int = 0,
    slots: int = 64,
    device: str = "auto",
    threads: int | None = None,
    engine: Literal["native", "vllm"] = "native",
    on_progress: Progress | None = None,
) -> EvaluationResult:
    """pass@1 of one model alone on a task, with its interval over problems.

    model: its settings, or just its path. max_new_tokens: used where `settings` names none.
    threads: CPU threads of PyTorch; None leaves them as they are. engine: what samples.
    Ids that its generation_config.json suppresses never occur: a distilled student's law is the
    one it was trained with only where the teacher's end ids stay silent.
    """
    own = ModelSettings(path=model) if isinstance(model, str) else model
    longest = settings.max_new_tokens or max_new_tokens
    with alone(
        own,
        slots=slots,
        longest=max_prompt_tokens + longest,
        device=device,
        threads=threads,
        engine=engine,
    ) as speaks:
        return grade(
            settings,
            task=task,
            engine=speaks.engine,
            student=speaks.model,
            alignment=speaks.alignment,
            max_prompt_tokens=max_prompt_tokens,
            max_new_tokens=longest,
            seed=seed,
            on_progress=on_progress or (lambda done, total: None),
        )


def _resolve(config: RunConfig | str | Path, overrides: Sequence[str]) -> RunConfig:
    if not isinstance(config, RunConfig):
        return load_config(config, overrides)
    return changed_config(config, overrides) if overrides else config


def _train(
    config: RunConfig, folder: Path, world: World, *, resume: bool, listener: Listener
) -> LoopEnd:
    _check_folder(folder, config, resume=resume)
    world.barrier()
    if world.first:
        (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    run, student = assemble(config, folder, world, listener)
    start = _continue(run) if resume else 0
    _keep_best(run, student)
    listener(Started(folder, start, config.training.steps))
    if world.first:
        facts = environment(config, world, resumed_at=start)
        (folder / "environment.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
    listener(Phase(start, "rehearse", 0, 1))
    rehearsed = rehearse(
        run.module,
        run.optimizer,
        config=config,
        estimate=estimate_memory(config, student, run.module),
        world=world,
    )
    listener(Note(str(rehearsed)))
    try:
        end = train_loop(run, start=start)
    finally:
        run.tracker.close()
        run.engine.close()
    if world.first:
        if not end.interrupted:
            save_final(
                folder / "final",
                student=student,
                silenced_ids=silenced_ids(student, run.module.student.alignment),
                config=config,
                metrics=end.metrics,
            )
            listener(Saved(end.step, folder / "final"))
        write_report(folder)
    listener(Finished(end.step, end.interrupted))
    return end


def _keep_best(run: Run, student: LoadedModel) -> None:
    """Let evaluations on validation problems, and on no others, keep the best model as best/."""
    settings = run.config.evaluation
    if run.evaluate is None or settings is None or settings.split != "validation":
        return
    if not run.world.first:
        return
    best = run.folder / BEST

    def save(now: Selected, metrics: dict[str, float]) -> None:
        save_final(
            best,
            student=student,
            silenced_ids=silenced_ids(student, run.module.student.alignment),
            config=run.config,
            metrics=metrics,
            beside={SELECTED: now.text()},
        )

    run.evaluate = keeping_best(run.evaluate, best=best, save=save)


def _check_folder(folder: Path, config: RunConfig, *, resume: bool) -> None:
    """Raise ValueError where a run of that name is in the way, or is another run."""
    old_file = folder / "config.yaml"
    # A folder without a line of metrics or a checkpoint is what a refused recipe left: no run yet.
    if not old_file.is_file() or not has_begun(folder):
        return
    if not resume:
        raise ValueError(
            f"{folder} already holds a run; go on with it with --resume, or give this one another "
            "name"
        )
    old, new = plain_data(load_config(old_file)), plain_data(config)
    # What may change between sessions: how long, how often, on what, and what is told to whom.
    free = {"threads", "device", "training", "evaluation", "tracker"}
    changed = sorted(name for name in new if name not in free and new[name] != old[name])
    if new["training"]["updates_per_rollout"] != old["training"]["updates_per_rollout"]:
        changed.append("training.updates_per_rollout")  # it numbers the batches of prompts
    if changed:
        raise ValueError(
            f"{folder} was begun with another {', '.join(changed)}; a resumed run keeps them, so "
            "give this one another name"
        )


def _continue(run: Run) -> int:
    """Go back to the last checkpoint, in weights, optimiser and log; how many steps it holds."""
    folder, world = run.folder, run.world
    checkpoints = folder / "checkpoints"
    if world.first:
        sweep(checkpoints)
    world.barrier()
    start = 0
    found = list_checkpoints(checkpoints)
    if found:
        start = load_checkpoint(
            found[-1], student=run.module.student_model, optimizer=run.optimizer, world=world
        )
    if world.first:
        for name in ("metrics.jsonl", "samples.jsonl"):
            # Without a checkpoint everything is done again, the evaluation before training too.
            LineLog(folder / name).cut(start if found else -1)
        forget_after(folder, start if found else -1)
    return start
