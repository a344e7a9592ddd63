"""`tandem eval`: which model, on what, how; from a hub id, a folder, or a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tandem.front.run_models import folder_of, parse
from tandem.models.loading import locate
from tandem.models.settings import ModelSettings
from tandem.settings import Settings
from tandem.tasks import AnyTask
from tandem.tasks.base import Task
from tandem.training.components import build, build_component, kinds
from tandem.training.config import EvaluationSettings, RolloutSettings
from tandem.training.recipe_file import Recipe, Source, override, read_recipe

SECTIONS = ("model", "task", "evaluation", "limits")


class Limits(Settings):
    """Token limits of an evaluation; `evaluation.max_new_tokens` goes before `max_new_tokens`.
    threads: CPU threads of PyTorch; None leaves its own choice. engine: what samples."""

    max_prompt_tokens: int = Field(default=1024, gt=0)
    max_new_tokens: int = Field(default=1024, gt=0)
    slots: int = Field(default=64, gt=0)
    threads: int | None = Field(default=None, gt=0)
    engine: Literal["native", "vllm"] = "native"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything an evaluation needs to know."""

    model: ModelSettings
    task: Task
    evaluation: EvaluationSettings
    limits: Limits


def plan(model: str, *, task: str | None, overrides: Sequence[str]) -> Plan:
    """Resolve the arguments of `tandem eval`.

    model: a run's folder (its final model, or the one after @; its prompts, task and limits), a
    model's folder, a hub id, or an embedded name. task: a kind; needed unless `model` is a run.
    overrides:
    `section.key=value` with the sections model, task, evaluation and limits.
    Raises ValueError, in one sentence, for whatever the user can mend.
    """
    recipe = defaults(model)
    if task is not None and recipe.data.get("task", {}).get("kind") != task:
        recipe.data["task"] = {"kind": task}
    recipe = override(recipe, overrides)
    data, source = recipe.data, recipe.source
    for section in data:
        if section not in SECTIONS:
            raise ValueError(f"unknown section {section!r}; there are {', '.join(SECTIONS)}")
    if "task" not in data:
        names = ", ".join(kinds(AnyTask))
        raise ValueError(f"{model} is no run, so it brings no task; add --task ({names})")
    return Plan(
        model=build(ModelSettings, data["model"], place="model", source=source),
        task=build_component(Task, kinds(AnyTask), data["task"], place="task", source=source),
        evaluation=build(EvaluationSettings, data["evaluation"], place="evaluation", source=source),
        limits=build(Limits, data["limits"], place="limits", source=source),
    )


def defaults(model: str) -> Recipe:
    """The sections that a model brings with it, before any override."""
    named = parse(model)
    if not named.is_run:
        _look_for_a_model(model)
        every_field = {"every": 1, "problems": 200, "samples": 1, "split": "test"}
        # The embedded pair was made for short chains: its context is 128 tokens.
        embedded = {"max_prompt_tokens": 16, "max_new_tokens": 32, "threads": 1}
        limits = embedded if model.startswith("embedded:") else {}
        data = {"model": {"path": model}, "evaluation": every_field, "limits": limits}
        return Recipe(data, Source("the command line"))
    # Not the whole run: its behaviour and objective may be classes from files that are gone, and
    # nothing here asks for them.
    run = read_recipe(Path(named.path) / "config.yaml")
    sections: dict[str, Any] = run.data
    rollout = build(RolloutSettings, sections["rollout"], place="rollout", source=run.source)
    evaluation = sections.get("evaluation") or {"every": 1, "problems": 200}
    data = {
        "model": {**sections["student"], "path": str(folder_of(named))},
        "task": sections["task"],
        # What was watched while training is not what to judge by.
        "evaluation": {**evaluation, "split": "test"},
        "limits": {
            "max_prompt_tokens": rollout.max_prompt_tokens,
            "max_new_tokens": rollout.max_new_tokens,
            "slots": rollout.slots,
            "threads": sections.get("threads"),
            "engine": rollout.engine,
        },
    }
    return Recipe(data, run.source)


def _look_for_a_model(model: str) -> None:
    """Raise ValueError where `model` is a path at which no model lies; a hub id may be anything."""
    folder = Path(locate(model))
    if folder.is_file():
        raise ValueError(f"{model} is a file; give a run's folder, a model's folder or a hub id")
    if not folder.is_dir() or (folder / "config.json").is_file():
        return
    inside = sorted(found.parent for found in folder.glob("*/config.yaml"))
    if inside:
        raise ValueError(f"{model} holds several runs; name one: {', '.join(map(str, inside))}")
    raise ValueError(
        f"{model} holds neither a run (config.yaml) nor a model (config.json); check the path"
    )
