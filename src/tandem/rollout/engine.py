"""Responses from a student, its teachers, and a behaviour that says whose law the next token has.

`Engine.generate` checks the requests, groups them by teacher, and runs each group through a
`Session`. It keeps no state between calls: no cache, no generator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from tandem.behaviours.base import Behaviour
from tandem.rollout.attention import attending
from tandem.rollout.budget import affordable, longest_row
from tandem.rollout.costs import CostBook, measure_costs
from tandem.rollout.graphs import Runner, runner_on
from tandem.rollout.lane import Lane
from tandem.rollout.pace import DISTRIBUTIONS, Block, Pace, widest
from tandem.rollout.protocol import Progress, SpeakerLike
from tandem.rollout.queue import Job
from tandem.rollout.refusal import RequestRefused
from tandem.rollout.session import Session, Terms
from tandem.rollout.tally import Tally
from tandem.rollout.varlen import Kernel, kernel_for
from tandem.types import Clock, Request, Rollout, Sampling, SignalSpec, limit_of


class Engine:
    """Lock-step co-decoding of one student with any of several teachers.

    slots: rows decoded at once, at most. block: tokens that the student drafts before its teacher
    looks, from 1; `auto` chooses them each round from `costs`, measured where they are not in that
    book yet. cache_bytes: what keys and values may take, the student's and one teacher's together:
    fewer rows are decoded at once where all at their longest would take more. runner: for a
    device, what does rounds of fixed shapes there, or None. kernel_for: for a model, what attends
    by lengths (varlen.py), or None. Raises ValueError where a teacher does
    not speak the student's vocabulary.
    """

    def __init__(
        self,
        student: SpeakerLike,
        teachers: Mapping[str, SpeakerLike],
        *,
        slots: int,
        block: Block = 1,
        costs: CostBook | None = None,
        cache_bytes: int | None = None,
        runner: Callable[[torch.device], Runner | None] = runner_on,
        kernel_for: Callable[[SpeakerLike], Kernel | None] = kernel_for,
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots is {slots}: give the engine at least 1 row to decode")
        for name, teacher in teachers.items():
            spoken = (student.vocabulary_size, student.end_id)
            taught = (teacher.vocabulary_size, teacher.end_id)
            if spoken != taught:
                raise ValueError(
                    f"teacher {name!r} speaks (vocabulary size, end id) {taught} and the student "
                    f"{spoken}: make both speakers from one alignment"
                )
        if block != "auto" and (type(block) is not int or block < 1):
            raise ValueError(f"block is {block!r}: draft at least 1 token a round, or give 'auto'")
        self.student, self.teachers, self.slots = student, dict(teachers), slots
        self.block: Block = block
        self._runner, self._kernel_for = partial(runner, student.device), kernel_for
        self.costs = CostBook() if costs is None else costs
        self.cache_bytes = cache_bytes

    def generate(
        self,
        requests: Sequence[Request],
        *,
        behaviour: Behaviour,
        clock: Clock,
        sampling: Sampling,
        seed: int,
        record: SignalSpec,
        policy_version: int = 0,
        on_progress: Progress | None = None,
        tally: Tally | None = None,
    ) -> list[Rollout]:
        """One rollout per request, in their order, with CPU tensors that may meet autograd.

        record: the per-token quantities to keep; teacher parts are kept where the behaviour
        consults the teacher, and are None (its cache never made) where it does not.
        on_progress: told (tokens, sequences) done so far, once per round.
        tally: what the call cost is added to it.
        Results depend on (seed, request), not on slots, blocks, order or company: in fp32 up to
        rounding, which may part two runs at a token whose draw it decides; in bf16 in law.
        Raises ValueError for requests that cannot be served: see `check`.
        """
        taught = behaviour.needs_teacher(clock)
        check(requests, sampling, vocabulary=self.student.vocabulary_size)
        for request in requests:
            self._check_fits(request, sampling, taught=taught)
        groups: dict[str | None, list[Job]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(request.teacher if taught else None, []).append(Job(index, request))
        results: dict[int, Rollout] = {}
        done = [0, 0]

        def progress(tokens: int, sequences: int) -> None:
            done[0] += tokens
            done[1] += sequences
            if on_progress is not None:
                on_progress(done[0], done[1])

        terms = Terms(behaviour, clock, sampling, seed, record, policy_version)
        used = [self.student, *(self.teachers[name] for name in groups if name is not None)]
        with torch.inference_mode(), attending(used, self._kernel_for):
            for name, jobs in groups.items():
                speakers = [self.student] + ([] if name is None else [self.teachers[name]])
                limit, runner = sampling.max_new_tokens, self._runner()
                most = widest(self.block, alone=name is None, replayed=runner is not None)
                rows = affordable(
                    jobs, speakers, limit=limit, widest=most, cache_bytes=self.cache_bytes
                )
                slots = min(self.slots, len(jobs), rows)
                lanes = [
                    Lane(
                        speaker,
                        rows=slots,
                        capacity=longest_row(jobs, side, limit, widest=most),
                        # A graph knows its buffers by where they lie.
                        grows=runner is None,
                    )
                    for side, speaker in enumerate(speakers)
                ]
                session = Session(
                    jobs,
                    lanes,
                    terms,
                    slots=slots,
                    pace=self._pace(speakers, terms, name, most),
                    widest=most,
                    deliver=results.__setitem__,
                    runner=runner,
                )
                session.run(progress)
                if tally is not None:
                    tally.add(session.tally)
        return [results[index] for index in range(len(requests))]

    def _pace(self, speakers: list[SpeakerLike], terms: Terms, name: str | None, most: int) -> Pace:
        row_bytes = DISTRIBUTIONS * 4 * self.student.vocabulary_size
        if self.block != "auto" or name is None:
            return Pace(most, None, row_bytes=row_bytes)
        if name not in self.costs:
            self.costs.keep(
                name,
                measure_costs(
                    speakers, terms, slots=self.slots, row_bytes=row_bytes, runner=self._runner
                ),
            )
        return Pace("auto", self.costs[name], row_bytes=row_bytes)

    def refresh(self) -> None:
        """Nothing to do: the student's weights are read where they lie."""

    def close(self) -> None:
        """Nothing to do: nothing is kept between calls."""

    def _check_fits(self, request: Request, sampling: Sampling, *, taught: bool) -> None:
        """Refuse prompts that are empty, or too long for their model's context."""
        sides = [("student", self.student, request.student_ids)]
        if taught:
            if request.teacher not in self.teachers:
                known = ", ".join(map(repr, self.teachers)) or "none"
                raise RequestRefused(
                    request,
                    f"asks for teacher {request.teacher!r}, but the engine has {known}: name one "
                    "of those, or add it to the engine",
                )
            teacher = self.teachers[request.teacher]
            sides.append((f"teacher {request.teacher!r}", teacher, request.teacher_ids))
        new = limit_of(request, sampling.max_new_tokens)
        for name, speaker, prompt in sides:
            if not prompt:
                raise RequestRefused(
                    request, f"has an empty prompt for the {name}: give it at least one token"
                )
            # The last token of a response is never fed.
            needed, context = len(prompt) + new - 1, speaker.config.max_position_embeddings
            if needed > context:
                raise RequestRefused(
                    request,
                    f"can never fit the {name}: {len(prompt)} prompt tokens + {new} new tokens − 1 "
                    f"= {needed} positions, and its context (max_position_embeddings) is "
                    f"{context}: allow shorter prompts or fewer new tokens",
                )


def check(requests: Sequence[Request], sampling: Sampling, *, vocabulary: int) -> None:
    """Refuse settings and requests that have no meaning, whatever the models are."""
    if sampling.max_new_tokens < 1:
        raise ValueError(
            f"max_new_tokens is {sampling.max_new_tokens}: ask for at least 1 new token"
        )
    if not (sampling.temperature == 0.0 or 1e-3 <= sampling.temperature <= 1e3):
        raise ValueError(
            f"temperature is {sampling.temperature}: give 0 (greedy) or a number from 0.001 to 1000"
        )
    repeated = [i for i, n in Counter(r.id for r in requests).items() if n > 1]
    if repeated:
        raise ValueError(
            f"request id {repeated[0]} occurs more than once, and equal ids draw equal tokens: "
            "give every request its own id"
        )
    for request in requests:
        if request.max_new_tokens is not None and request.max_new_tokens < 1:
            raise RequestRefused(
                request,
                f"has max_new_tokens {request.max_new_tokens}: ask for at least 1 new token",
            )
        if len(request.forced_ids) > sampling.max_new_tokens:
            raise RequestRefused(
                request,
                f"forces {len(request.forced_ids)} tokens, but max_new_tokens is "
                f"{sampling.max_new_tokens}: shorten one or raise the other",
            )
        for outside in (i for i in request.forced_ids if not 0 <= i < vocabulary):
            raise RequestRefused(
                request,
                f"forces id {outside}, but the shared vocabulary has {vocabulary} ids: force only "
                f"ids from 0 to {vocabulary - 1}",
            )
