"""Requests waiting for a slot, and the prompts that are prefilled ahead for them.

Prompts are prefilled in batches before slots fall free, because a forward for one prompt costs
nearly as much as one for many; a refill is then a copy. Each distinct prompt is prefilled once.
The order here is for speed alone: draws belong to (seed, request, position), wherever it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.core.counter import uniform
from tandem.rollout.lane import Lane
from tandem.types import Draw, Request

# Prompt tokens, padding included, that one prefill takes at most: it bounds activations, and the
# keys and values that wait outside the slots.
PREFILL_TOKENS = 16_384


@dataclass(frozen=True, slots=True)
class Job:
    """A request and its place in the answer."""

    index: int
    request: Request


@dataclass(frozen=True, slots=True)
class Admission:
    """Jobs that may start now. prefilled: per lane, [layers, 2, n, G, P, D] or None.
    draws: [n, T] the uniforms of all their positions."""

    jobs: list[Job]
    prefilled: list[Tensor | None]
    draws: Tensor


class Queue:
    """Hands out jobs, longest prompts first, those of one prompt together.

    ahead: prompts prefilled together and jobs whose uniforms are drawn together, at most.
    """

    def __init__(
        self, jobs: Sequence[Job], lanes: Sequence[Lane], *, seed: int, length: int, ahead: int
    ) -> None:
        self._lanes = lanes
        self._seed, self._length, self._ahead = seed, length, ahead
        groups: dict[tuple[tuple[int, ...], ...], list[Job]] = {}
        for job in jobs:
            groups.setdefault(prompts_of(job.request, len(lanes)), []).append(job)
        # Popped from the end; neighbours of like length waste little padding.
        self._groups = sorted(groups.items(), key=lambda group: [len(p) for p in group[0]])
        self._staged: list[Tensor | None] = []
        self._jobs: list[tuple[Job, int]] = []
        self._block: list[tuple[Job, int]] = []
        self._draws = torch.empty(0)

    def take(self, wanted: int) -> Admission | None:
        """Up to `wanted` jobs, at least one; None when the queue is empty."""
        if not self._block and not self._next_block():
            return None
        taken, self._block = self._block[:wanted], self._block[wanted:]
        draws, self._draws = self._draws[:wanted], self._draws[wanted:]
        source = torch.tensor([row for _, row in taken], device=draws.device)
        prefilled = [
            None if part is None else part.index_select(2, source) for part in self._staged
        ]
        return Admission([job for job, _ in taken], prefilled, draws)

    def _next_block(self) -> bool:
        """The next jobs of the staged prompts, with their draws; False when there are none."""
        if not self._jobs and not self._stage():
            return False
        self._block, self._jobs = self._jobs[: self._ahead], self._jobs[self._ahead :]
        device = self._lanes[0].speaker.device
        ids = torch.tensor([job.request.id for job, _ in self._block], device=device)
        positions = torch.arange(self._length, device=device)
        # The student's draw is a draft whether or not anybody verifies it, so that a blend with
        # nothing to spend and a student alone draw the same tokens.
        self._draws = uniform(self._seed, ids[:, None], positions[None], Draw.DRAFT)
        return True

    def _stage(self) -> bool:
        """Prefill the next prompts; False when there are none."""
        self._staged = []
        prompts: list[tuple[tuple[int, ...], ...]] = []
        longest = 0
        while self._groups and len(prompts) < self._ahead:
            prompt, jobs = self._groups[-1]
            longest = max(longest, *(len(p) for p in prompt))
            if prompts and longest * (len(prompts) + 1) > PREFILL_TOKENS:
                break
            self._groups.pop()
            self._jobs += [(job, len(prompts)) for job in jobs]
            prompts.append(prompt)
        if not prompts:
            return False
        columns = zip(*prompts, strict=True)
        pairs = zip(self._lanes, columns, strict=True)
        self._staged = [lane.prefill(column) for lane, column in pairs]
        return True


def prompts_of(request: Request, lanes: int) -> tuple[tuple[int, ...], ...]:
    """The prompts of a request for the student alone, or for the student and its teacher."""
    return (request.student_ids, request.teacher_ids)[:lanes]
