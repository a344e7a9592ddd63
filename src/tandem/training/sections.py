"""The sections of a recipe that choose no class: one frozen model each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from tandem.behaviours.base import Behaviour
from tandem.objectives.base import Objective
from tandem.settings import Settings
from tandem.tasks.base import Split


def _block(value: object) -> object:
    if value != "auto" and (type(value) is not int or value < 1):
        raise ValueError(f"block is {value!r}: give auto, or how many tokens to draft, 1 or more")
    return value


class RolloutSettings(Settings):
    """How many responses a step is made of, and how long they may be.

    slots: sequences decoded at once; finished ones are replaced from the queue.
    cache_gib: what keys and values may take while decoding, in GiB, both models' together; fewer
    slots are used where all of them at their longest would take more.
    block: tokens that the student drafts before its teacher looks, wherever a behaviour consults
    one. The law of the responses does not depend on it, and in fp32 not even their tokens, up to
    rounding. auto: what pays best each round, by costs that are measured once and kept with the
    run; a number makes two fresh runs agree to the last bit.
    max_prompt_tokens: longer prompts (in either model's template) are dropped and counted.
    truncated: whether responses that hit the length limit are trained on (keep) or not (drop).
    engine: native does everything; vllm takes over wherever the student speaks alone.
    """

    prompts_per_step: int = Field(gt=0)
    samples_per_prompt: int = Field(gt=0)
    max_prompt_tokens: int = Field(gt=0)
    max_new_tokens: int = Field(gt=0)
    slots: int = Field(default=64, gt=0)
    cache_gib: float | None = Field(default=None, gt=0)
    block: Annotated[int | Literal["auto"], BeforeValidator(_block)] = "auto"
    truncated: Literal["keep", "drop"]
    engine: Literal["native", "vllm"] = "native"


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
    """The updates and the checkpoints.

    steps: optimiser steps. updates_per_rollout: how many of them use one batch of responses, each
    the whole batch; 1 is on-policy.
    tokens_per_micro_batch: prompt and response tokens per forward, padding included, by the longer
    of what student and teacher read; a longer sequence travels alone.
    head_chunk_bytes: size of one fp32 chunk of logits.
    save_every: steps between checkpoints; keep_last: how many stay on disk.
    """

    steps: int = Field(gt=0)
    updates_per_rollout: int = Field(default=1, gt=0)
    tokens_per_micro_batch: int = Field(default=8192, gt=0)
    gradient_checkpointing: bool = False
    head_chunk_bytes: int = Field(default=2**28, ge=2**16)
    save_every: int = Field(default=50, gt=0)
    keep_last: int = Field(default=2, gt=0)


class PhaseSettings(Settings):
    """A part of the run with a behaviour and an objective of its own.

    until_step: its end, in optimiser steps from the run's start; only the last may leave it out.
    behaviour, objective: the recipe's own where they are left out. Their schedules count from the
    phase's start. prompts: go on where the phase before stopped, or ask the first prompts again.
    optimizer: keep AdamW's moments, or reset them and begin the learning rate's schedule again.
    """

    until_step: int | None = Field(default=None, gt=0)
    behaviour: SerializeAsAny[Behaviour] | None = None
    objective: SerializeAsAny[Objective] | None = None
    prompts: Literal["continue", "restart"] = "continue"
    optimizer: Literal["keep", "reset"] = "keep"


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
