"""What a run is: one frozen model per component, loaded from YAML with `key=value` overrides."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from tandem.behaviours.base import Behaviour
from tandem.models.settings import ModelSettings
from tandem.objectives.base import Objective
from tandem.settings import Settings
from tandem.tasks.base import Split, Task
from tandem.training.components import build, build_component, kinds


class RolloutSettings(Settings):
    """How many responses a step is made of, and how long they may be.

    slots: sequences decoded at once; finished ones are replaced from the queue.
    max_prompt_tokens: longer prompts (in either model's template) are dropped and counted.
    truncated: whether responses that hit the length limit are trained on (keep) or not (drop).
    """

    prompts_per_step: int = Field(gt=0)
    samples_per_prompt: int = Field(gt=0)
    max_prompt_tokens: int = Field(gt=0)
    max_new_tokens: int = Field(gt=0)
    slots: int = Field(default=64, gt=0)
    truncated: Literal["keep", "drop"]


class OptimizerSettings(Settings):
    """AdamW and its learning rate over time.

    lr: the peak. warmup_steps: a half-cosine rise from 0 before `schedule` begins.
    clip_norm: largest norm of the whole gradient; None never clips.
    """

    lr: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)


class TrainingSettings(Settings):
    """The update and the checkpoints.

    tokens_per_micro_batch: prompt and response tokens of the student per forward; a longer
    sequence travels alone. head_chunk_bytes: size of one fp32 chunk of logits.
    save_every: steps between checkpoints; keep_last: how many stay on disk.
    """

    steps: int = Field(gt=0)
    tokens_per_micro_batch: int = Field(default=8192, gt=0)
    gradient_checkpointing: bool = False
    head_chunk_bytes: int = Field(default=2**28, ge=2**16)
    save_every: int = Field(default=50, gt=0)
    keep_last: int = Field(default=2, gt=0)


class EvaluationSettings(Settings):
    """pass@1 over `samples` answers to each of `problems` problems, before, every `every` steps
    and after training. max_new_tokens: None takes the rollout's."""

    every: int = Field(gt=0)
    problems: int = Field(gt=0)
    samples: int = Field(default=1, gt=0)
    split: Split = "validation"
    max_new_tokens: int | None = Field(default=None, gt=0)
    temperature: float = Field(default=1.0, ge=0)


class TrackerSettings(Settings):
    """Where else metrics go, beside the run folder."""

    kind: Literal["none", "wandb", "trackio", "tensorboard"] = "none"
    project: str = "tandem"


class RunConfig(Settings):
    """A whole run: four plain facts and one section per component.

    threads: CPU threads of PyTorch; None leaves its own choice. device: "auto" is CUDA where
    there is one.
    """

    name: str
    seed: int = Field(default=0, ge=0, lt=2**31)
    threads: int | None = Field(default=None, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    student: ModelSettings
    teacher: ModelSettings
    task: SerializeAsAny[Task]
    behaviour: SerializeAsAny[Behaviour]
    objective: SerializeAsAny[Objective]
    rollout: RolloutSettings
    optimizer: OptimizerSettings
    training: TrainingSettings
    evaluation: EvaluationSettings | None = None
    tracker: TrackerSettings = TrackerSettings()

    @field_validator("name")
    @classmethod
    def _stays_inside_the_runs_folder(cls, name: str) -> str:
        path = Path(name)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{name!r} is no folder name; use letters, digits, - _ and /")
        return name

    @model_validator(mode="after")
    def _parts_fit_together(self) -> RunConfig:
        self.objective.check(self.behaviour, updates_per_rollout=1)
        if self.optimizer.warmup_steps > self.training.steps:
            raise ValueError(
                f"optimizer.warmup_steps is {self.optimizer.warmup_steps}, more than "
                f"training.steps ({self.training.steps}); the peak rate would never be reached"
            )
        return self


# Sections that choose a class by `kind`; written as that word alone where it needs nothing else.
COMPONENTS = ("task", "behaviour", "objective")

_SECTIONS: dict[str, type[Settings]] = {
    "student": ModelSettings,
    "teacher": ModelSettings,
    "rollout": RolloutSettings,
    "optimizer": OptimizerSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
    "tracker": TrackerSettings,
}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run a recipe describes, after `section.key=value` overrides (values are YAML).

    Raises ValueError with one sentence: no such file, not YAML, an unknown key or kind with its
    nearest match, a value of the wrong type, parts that do not fit together.
    """
    source = str(path)
    if not Path(path).is_file():
        raise ValueError(f"no recipe {source!r}; give the path of a YAML file")
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None
    if data is None:
        raise ValueError(f"{source} is empty, but a recipe is a group of keys")
    if not isinstance(data, dict):
        raise ValueError(f"{source} holds {type(data).__name__}, but a recipe is a group of keys")
    return config_from_dict(apply_overrides(data, overrides), source=source)


def config_from_dict(data: dict[str, Any], *, source: str = "the configuration") -> RunConfig:
    """The run that a plain mapping describes; errors as in `load_config`."""
    # Imported here: these packages know the classes, this module only their bases.
    from tandem.behaviours import AnyBehaviour
    from tandem.objectives import AnyObjective
    from tandem.tasks import AnyTask

    components: dict[str, tuple[type[Settings], Any]] = {
        "task": (Task, AnyTask),
        "behaviour": (Behaviour, AnyBehaviour),
        "objective": (Objective, AnyObjective),
    }
    built = dict(data)
    for name, (base, union) in components.items():
        if name in data:
            built[name] = build_component(base, kinds(union), data[name], place=name, source=source)
    for name, section in _SECTIONS.items():
        if data.get(name) is not None:
            built[name] = build(section, data[name], place=name, source=source)
    return build(RunConfig, built, place="", source=source)


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `data` with each `a.b=value` set.

    Naming another `kind` of a component starts that section afresh, whichever override comes
    first: the old kind's keys mean nothing to it.
    Raises ValueError for an override without "=" or one that leads through a plain value.
    """
    result = deepcopy(data)
    # Kinds first, so that what is said of them besides is not forgotten with the old kind's keys.
    for override in sorted(overrides, key=lambda text: not _chooses_kind(text)):
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise ValueError(f"override {override!r} is not of the form section.key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"the value of override {override!r} is not valid YAML") from None
        inner = result
        for key in keys[:-1]:
            if inner.get(key) is None:
                inner[key] = {}
            elif isinstance(inner[key], str) and key in COMPONENTS:
                inner[key] = {"kind": inner[key]}
            if not isinstance(inner[key], dict):
                raise ValueError(
                    f"override {override!r} leads through {key!r}, which is {inner[key]!r} and "
                    f"has no keys"
                )
            inner = inner[key]
        if _chooses_kind(override) and inner.get("kind") not in (None, value):
            inner.clear()
        inner[keys[-1]] = value
    return result


def _chooses_kind(override: str) -> bool:
    """Whether it is `behaviour.kind=…`, or the same in short: `behaviour=…`."""
    section, _, key = override.partition("=")[0].strip().partition(".")
    return section in COMPONENTS and key in ("", "kind")


def dump_config(config: RunConfig) -> str:
    """The resolved run as YAML that loads back equal."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
