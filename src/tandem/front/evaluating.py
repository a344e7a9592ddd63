"""`tandem eval`: which model, on what, how; from a hub id, a folder, or a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tandem.models.settings import ModelSettings
from tandem.settings import Settings
from tandem.tasks import AnyTask
from tandem.tasks.base import Task
from tandem.training.components import build, build_component, kinds
from tandem.training.config import EvaluationSettings, apply_overrides, load_config

SECTIONS = ("model", "task", "evaluation", "limits")


class Limits(Settings):
    """Token limits of an evaluation; `evaluation.max_new_tokens` goes before `max_new_tokens`.
    threads: CPU threads of PyTorch; None leaves its own choice."""

    max_prompt_tokens: int = Field(default=1024, gt=0)
    max_new_tokens: int = Field(default=1024, gt=0)
    slots: int = Field(default=64, gt=0)
    threads: int | None = Field(default=None, gt=0)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything an evaluation needs to know."""

    model: ModelSettings
    task: Task
    evaluation: EvaluationSettings
    limits: Limits


def plan(model: str, *, task: str | None, overrides: Sequence[str]) -> Plan:
    """Resolve the arguments of `tandem eval`.

    model: a run's folder (its final model, prompts, task and limits), a model's folder, a hub id,
    or an embedded name. task: a kind; needed unless `model` is a run. overrides:
    `section.key=value` with the sections model, task, evaluation and limits.
    Raises ValueError, in one sentence, for whatever the user can mend.
    """
    data = _defaults(model)
    if task is not None and data.get("task", {}).get("kind") != task:
        data["task"] = {"kind": task}
    data = apply_overrides(data, overrides)
    for section in data:
        if section not in SECTIONS:
            raise ValueError(f"unknown section {section!r}; there are {', '.join(SECTIONS)}")
    if "task" not in data:
        names = ", ".join(kinds(AnyTask))
        raise ValueError(f"{model} is no run, so it brings no task; add --task ({names})")
    source = "the command line"
    return Plan(
        model=build(ModelSettings, data["model"], place="model", source=source),
        task=build_component(Task, kinds(AnyTask), data["task"], place="task", source=source),
        evaluation=build(EvaluationSettings, data["evaluation"], place="evaluation", source=source),
        limits=build(Limits, data["limits"], place="limits", source=source),
    )


def _defaults(model: str) -> dict[str, Any]:
    recipe = Path(model) / "config.yaml"
    if not recipe.is_file():
        every_field = {"every": 1, "problems": 200, "samples": 1, "split": "test"}
        # The embedded pair was made for short chains: its context is 128 tokens.
        embedded = {"max_prompt_tokens": 16, "max_new_tokens": 32, "threads": 1}
        limits = embedded if model.startswith("embedded:") else {}
        return {"model": {"path": model}, "evaluation": every_field, "limits": limits}
    run = load_config(recipe)
    final = Path(model) / "final"
    if not final.is_dir():
        raise ValueError(f"{model} has no final model yet; finish the run with --resume")
    evaluation = run.evaluation or EvaluationSettings(every=1, problems=200)
    return {
        "model": {**run.student.model_dump(mode="json"), "path": str(final)},
        "task": run.task.model_dump(mode="json"),
        # What was watched while training is not what to judge by.
        "evaluation": {**evaluation.model_dump(mode="json"), "split": "test"},
        "limits": {
            "max_prompt_tokens": run.rollout.max_prompt_tokens,
            "max_new_tokens": run.rollout.max_new_tokens,
            "slots": run.rollout.slots,
            "threads": run.threads,
        },
    }
