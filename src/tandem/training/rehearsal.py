"""The largest possible updates before the first rollout: what will not fit stops now, not at night.

The rehearsal leaves weights and gradients as they were; AdamW's state is allocated, at the zeros it
would start from.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch.optim import Optimizer

from tandem.models.speaker import Speaker
from tandem.training.config import RunConfig
from tandem.training.optimizer import allocate_state
from tandem.training.parallel import World
from tandem.training.step import StepModule
from tandem.training.teachers import ONLY_TEACHER
from tandem.training.update import Scored, accumulate_gradient
from tandem.types import Author, Clock, Request, Rollout, SignalSpec, TeacherSignal

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Estimate:
    """The arithmetic of a run's memory: its largest total in bytes, of which `cache_bytes` are the
    rollouts' key-value caches, and the lines that add it up."""

    total: int
    cache_bytes: int
    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """Bytes: what was estimated, the peak that was measured, and what there is."""

    estimated: int
    measured: int
    limit: int

    def __str__(self) -> str:
        return (
            f"memory: the run needs about {self.estimated / GIB:.1f} GiB, "
            f"{self.limit / GIB:.1f} GiB are free for it; a trial of its largest update brought "
            f"this process to {self.measured / GIB:.1f} GiB"
        )


def rehearse(
    module: StepModule,
    optimizer: Optimizer,
    *,
    config: RunConfig,
    estimate: Estimate,
    world: World,
) -> Rehearsed:
    """Run the largest update the recipe allows, with the optimiser's state and the rollouts' caches
    accounted for. Raises ValueError, with the arithmetic, where it does not fit."""
    limit = memory_limit(world.device)
    if estimate.total > limit:
        raise ValueError(_does_not_fit(estimate, limit))
    try:
        allocate_state(optimizer)
        if world.device.type == "cuda":
            # The caches of a roll-out are gone when an update begins: they need only fit beside
            # what stays. On the CPU untouched memory costs nothing, so there the sum must do.
            torch.empty(estimate.cache_bytes, dtype=torch.uint8, device=world.device)
        for objective in config.timeline().objectives:
            update = largest_update(
                config,
                objective.needs(),
                vocabulary=module.student.vocabulary_size,
                teacher=_largest(module.teachers),
            )
            accumulate_gradient(
                module,
                update,
                objective=objective,
                clock=Clock(0, config.training.steps),
                token_budget=config.training.tokens_per_micro_batch,
                world=world,
                on_progress=lambda done, total: None,
            )
            optimizer.zero_grad(set_to_none=True)
    except torch.OutOfMemoryError:
        raise ValueError(_does_not_fit(estimate, limit)) from None
    finally:
        optimizer.zero_grad(set_to_none=True)
    return Rehearsed(estimate.total, peak_memory(world.device), limit)


def memory_limit(device: torch.device) -> int:
    """Bytes that this process may use on `device`, with what it uses already."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    limit = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    # A container's own limit, where there is one.
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file():
        text = group.read_text().strip()
        limit = limit if text == "max" else min(limit, int(text))
    return limit


def peak_memory(device: torch.device) -> int:
    """The most bytes this process has held on `device`; on the CPU everything it has mapped in."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _does_not_fit(estimate: Estimate, limit: int) -> str:
    sums = "; ".join(estimate.lines)
    return (
        f"the run needs {estimate.total / GIB:.1f} GiB and there are {limit / GIB:.1f} GiB "
        f"({sums}); lower training.tokens_per_micro_batch, rollout.slots or "
        "rollout.max_new_tokens, or set training.gradient_checkpointing"
    )


def _largest(teachers: Mapping[str, Speaker]) -> str:
    """The name of the teacher with the most parameters."""
    sizes = {n: sum(p.numel() for p in one.model.parameters()) for n, one in teachers.items()}
    return max(sizes, key=sizes.__getitem__)


def largest_update(
    config: RunConfig, spec: SignalSpec, *, vocabulary: int, teacher: str = ONLY_TEACHER
) -> Scored:
    """The most tokens that one micro-batch can hold, in responses of the greatest length, with
    nothing of the teacher on record."""
    spec = spec.within(vocabulary)
    prompt = (0,) * config.rollout.max_prompt_tokens
    length = config.rollout.max_new_tokens
    asked = config.rollout.prompts_per_step * config.rollout.samples_per_prompt
    fit = config.training.tokens_per_micro_batch // (len(prompt) + length - 1)
    k = spec.student_topk
    rollout = Rollout(
        request=Request(id=0, student_ids=prompt, teacher_ids=prompt, teacher=teacher),
        ids=torch.zeros(length, dtype=torch.int64),
        behaviour_logp=torch.zeros(length),
        student_logp=torch.zeros(length),
        teacher_logp=None,
        author=torch.full((length,), int(Author.STUDENT)),
        policy_version=0,
        ended="length",
        student_entropy=torch.zeros(length),
        gate=torch.full((length,), 0.5),
        current_logp=torch.zeros(length),
        signal=TeacherSignal(student_topk_ids=torch.arange(k).expand(length, k) if k else None),
    )
    rows = max(1, min(fit, asked))
    weights = [torch.ones(length)] * rows
    return Scored([rollout] * rows, weights, denominator=float(rows * length))
