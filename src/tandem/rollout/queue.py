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
from tandem.rollout.lane import Lane, Prefilled
from tandem.types import Draw, Request

Prompts = tuple[tuple[int, ...], ...]

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
    """Jobs that may start now. states: per lane, [layers, 2, n, G, P, D] or None. hidden: per
    lane, [n, P, H] where some of the jobs have given tokens.
    draws: [n, kinds, T] the uniforms of all their positions."""

    jobs: list[Job]
    states: list[Tensor | None]
    hidden: list[Tensor] | None
    draws: Tensor


class Queue:
    """Hands out jobs, longest prompts first, those of one prompt together.

    kinds: of draws. ahead: prompts prefilled together and jobs whose uniforms are drawn together,
    at most.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        lanes: Sequence[Lane],
        *,
        kinds: Sequence[Draw],
        seed: int,
        length: int,
        ahead: int,
    ) -> None:
        self._lanes, self._kinds = lanes, kinds
        self._seed, self._length, self._ahead = seed, length, ahead
        groups: dict[Prompts, list[Job]] = {}
        for job in jobs:
            groups.setdefault(opening_of(job.request, len(lanes)), []).append(job)
        # Popped from the end; neighbours of like length waste little padding.
        self._groups = sorted(groups.items(), key=lambda group: [len(p) for p in group[0]])
        self._staged: list[Prefilled | None] = []
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
        states = [
            None if part is None else part.states.index_select(2, source) for part in self._staged
        ]
        jobs, hidden = [job for job, _ in taken], None
        if any(job.request.forced_ids for job in jobs):
            # A given token makes an opening of two tokens at least, which was prefilled.
            hidden = [part.hidden.index_select(0, source) for part in self._staged if part]
        return Admission(jobs, states, hidden, draws)

    def _next_block(self) -> bool:
        """The next jobs of the staged prompts, with their draws; False when there are none."""
        if not self._jobs and not self._stage():
            return False
        self._block, self._jobs = self._jobs[: self._ahead], self._jobs[self._ahead :]
        device = self._lanes[0].speaker.device
        ids = torch.tensor([job.request.id for job, _ in self._block], device=device)
        positions = torch.arange(self._length, device=device)
        draws = [uniform(self._seed, ids[:, None], positions[None], kind) for kind in self._kinds]
        self._draws = torch.stack(draws, 1)
        return True

    def _stage(self) -> bool:
        """Prefill the next prompts; False when there are none."""
        self._staged = []
        prompts: list[Prompts] = []
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


def opening_of(request: Request, lanes: int) -> Prompts:
    """What the student alone, or the student and its teacher, read before the first token that is
    drawn: the prompt of each and what the request gives."""
    prompts = (request.student_ids, request.teacher_ids)[:lanes]
    return tuple(prompt + request.forced_ids for prompt in prompts)
