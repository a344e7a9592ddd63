"""What a run is: one frozen model per component, loaded from YAML with `key=value` overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from tandem.behaviours.base import Behaviour
from tandem.models.settings import ModelSettings
from tandem.objectives.base import Objective
from tandem.settings import Settings
from tandem.tasks.base import Task
from tandem.training.components import build
from tandem.training.phases import Timeline, check, timeline
from tandem.training.recipe_file import (
    Recipe,
    Source,
    apply_overrides,
    override,
    read_recipe,
)
from tandem.training.sections import (
    EvaluationSettings,
    OptimizerSettings,
    PhaseSettings,
    RolloutSettings,
    TrackerSettings,
    TrainingSettings,
)
from tandem.training.teachers import ONLY_TEACHER, check_reference, check_teachers

__all__ = [
    "EvaluationSettings",
    "OptimizerSettings",
    "PhaseSettings",
    "RolloutSettings",
    "RunConfig",
    "TrackerSettings",
    "TrainingSettings",
    "apply_overrides",
    "changed_config",
    "config_from_dict",
    "dump_config",
    "load_config",
    "plain_data",
]


class RunConfig(Settings):
    """A whole run: a few plain facts and one section per component.

    threads: CPU threads of PyTorch; None leaves its own choice. device: "auto" is CUDA where
    there is one.
    teacher judges everything; teachers, instead, each the prompts of the domain that it is named
    after. residency: whether all teachers stay on the device, or one at a time. reference: a
    frozen model that some objectives compare with; it reads the student's prompt.
    phases: in order; after the last one the recipe's own behaviour and objective hold until the
    end, as they do all along where there are none.
    """

    name: str
    seed: int = Field(default=0, ge=0, lt=2**31)
    threads: int | None = Field(default=None, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    student: ModelSettings
    teacher: ModelSettings | None = None
    teachers: dict[str, ModelSettings] = Field(default_factory=dict)
    residency: Literal["all", "one"] = "all"
    reference: ModelSettings | None = None
    task: SerializeAsAny[Task]
    behaviour: SerializeAsAny[Behaviour]
    objective: SerializeAsAny[Objective]
    rollout: RolloutSettings
    phases: tuple[PhaseSettings, ...] = ()
    optimizer: OptimizerSettings
    training: TrainingSettings
    evaluation: EvaluationSettings | None = None
    tracker: TrackerSettings = TrackerSettings()

    def teachers_by_name(self) -> dict[str, ModelSettings]:
        """All teachers, by the name that requests carry; a single one is called "teacher"."""
        return dict(self.teachers) if self.teacher is None else {ONLY_TEACHER: self.teacher}

    def timeline(self) -> Timeline:
        """What holds at each step of the run."""
        return timeline(
            self.phases,
            behaviour=self.behaviour,
            objective=self.objective,
            optimizer=self.optimizer,
            training=self.training,
        )

    @field_validator("name")
    @classmethod
    def _stays_inside_the_runs_folder(cls, name: str) -> str:
        path = Path(name)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{name!r} is no folder name; use letters, digits, - _ and /")
        return name

    @model_validator(mode="after")
    def _parts_fit_together(self) -> RunConfig:
        check_teachers(self.teacher, self.teachers, self.residency)
        line = self.timeline()
        check(line)
        check_reference(line, self.reference)
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run a recipe describes, after `section.key=value` overrides (values are YAML).

    Raises ValueError with one sentence: no such file, not YAML, an unknown key or kind with its
    nearest match, a value of the wrong type, parts that do not fit together.
    """
    return _built(read_recipe(path, overrides))


def config_from_dict(data: dict[str, Any], *, source: str = "the configuration") -> RunConfig:
    """The run that a plain mapping describes; errors as in `load_config`."""
    return _built(Recipe(data, Source(source)))


def changed_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """`config` after `section.key=value` overrides; errors as in `load_config`."""
    return _built(override(Recipe(plain_data(config), Source("the configuration")), overrides))


def _built(recipe: Recipe) -> RunConfig:
    return build(RunConfig, recipe.data, place="", source=recipe.source)


def plain_data(config: RunConfig) -> dict[str, Any]:
    """The run as YAML and JSON hold it; components within components whole."""
    return config.model_dump(mode="json", serialize_as_any=True)


def dump_config(config: RunConfig) -> str:
    """The resolved run as YAML that loads back equal."""
    return yaml.safe_dump(plain_data(config), sort_keys=False, allow_unicode=True)
