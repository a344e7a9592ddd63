"""The records that pass between the rooms.

Shape suffixes used throughout: N tokens of a batch, T tokens of one response, V shared vocabulary,
K support size, H hidden size. Every per-token array is aligned to the token it *scores*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, Literal, Self

import torch
from torch import Tensor


class Author(IntEnum):
    """Whose law a response token was drawn from."""

    STUDENT = 0
    BLEND = 1
    TEACHER = 2


class Draw(IntEnum):
    """Kinds of random draw; each (seed, sequence, position, kind) has one uniform of its own."""

    SAMPLE = 0
    DRAFT = 1
    ACCEPT = 2
    RESIDUAL = 3
    GATE = 4
    GIVEN = 5


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as schedules see it: optimiser steps taken so far (from 0) and steps in the run."""

    step: int
    total_steps: int


Ended = Literal["eos", "length"]


@dataclass(frozen=True, slots=True)
class Request:
    """One response to be made. The two models may see different prompts.

    `id` is the sequence's counter for random draws: unique within a run, so that results do not
    depend on batching. `teacher` names the teacher that judges it. `forced_ids` are emitted first
    instead of sampled tokens (a teacher prefix, an off-policy row) and are recorded under
    `forced_author`. `max_new_tokens` ends this response earlier than the sampling's limit would.
    """

    id: int
    student_ids: tuple[int, ...]
    teacher_ids: tuple[int, ...]
    teacher: str = "teacher"
    forced_ids: tuple[int, ...] = ()
    forced_author: Author = Author.TEACHER
    max_new_tokens: int | None = None


def limit_of(request: Request, limit: int) -> int:
    """The longest response to this request, in tokens."""
    own = request.max_new_tokens
    return limit if own is None else min(own, limit)


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """Which quantities an objective needs per token; the engine records what it can of them.

    sampled … dense: parts of the TeacherSignal. student_entropy: at rollout time. reference: log
    pi_ref of the drawn token. gate: one uniform per token for random gates. current: log p of the
    drawn token under the student of this very update (a sweep of its own; only plans read it).
    """

    sampled: bool = False
    student_topk: int = 0
    teacher_topk: int = 0
    teacher_entropy: bool = False
    student_entropy: bool = False
    dense: bool = False
    reference: bool = False
    gate: bool = False
    current: bool = False

    def __or__(self, other: SignalSpec) -> SignalSpec:
        """All that either asks for; of two supports of one kind the larger."""
        return SignalSpec(
            **{f.name: max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        )

    def within(self, vocabulary: int) -> SignalSpec:
        """The same on a vocabulary of that size: of 15 ids, the 64 most likely are all 15."""
        return replace(
            self,
            student_topk=min(self.student_topk, vocabulary),
            teacher_topk=min(self.teacher_topk, vocabulary),
        )

    @property
    def reads_teacher(self) -> bool:
        """Whether any of it needs the teacher (the student's top-k is scored by it too)."""
        parts = (self.sampled, self.student_topk, self.teacher_topk, self.teacher_entropy)
        return any(parts) or self.dense


class _Columns:
    """Tensors that share their first dimension, some of them optional."""

    __slots__ = ()

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        columns: dict[str, Any] = {}
        for f in fields(self):  # pyright: ignore[reportArgumentType]  # subclasses are dataclasses
            value = object.__getattribute__(self, f.name)
            columns[f.name] = None if value is None else change(value)
        return type(self)(**columns)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        return self._map(lambda column: column[rows])

    def to(self, device: torch.device) -> Self:
        return self._map(lambda column: column.to(device))

    @classmethod
    def cat(cls, records: Sequence[Self]) -> Self:
        """Concatenate along the first dimension; a part survives only where every record has it."""
        columns: dict[str, Any] = {}
        for f in fields(cls):  # pyright: ignore[reportArgumentType]
            values = [object.__getattribute__(r, f.name) for r in records]
            absent = any(v is None for v in values)
            columns[f.name] = None if absent else torch.cat(values)
        return cls(**columns)


@dataclass(frozen=True, slots=True)
class TeacherSignal(_Columns):
    """What is known of the teacher at N positions; absent parts are None.

    Ids belong to the signal: they are chosen once (at rollout for the student's top-k) and never
    selected again while training. All log-probs are fp32, canonical, over the shared vocabulary.

    sampled_logp: [N] log q of the response token.
    student_topk_ids: [N, K] ids of the student's K most likely tokens at rollout time.
    student_topk_logp: [N, K] log q on those ids.
    teacher_topk_ids, teacher_topk_logp: [N, K'] the teacher's own most likely tokens and log q.
    entropy: [N] teacher entropy in nats over the shared vocabulary.
    reference_logp: [N] log pi_ref of the response token under the reference model.
    hidden: [N, H] the teacher's last hidden state (the dense part, before its head).
    logp: [N, V] dense log q; exists for one chunk of tokens at a time, never for a whole batch.
    """

    sampled_logp: Tensor | None = None
    student_topk_ids: Tensor | None = None
    student_topk_logp: Tensor | None = None
    teacher_topk_ids: Tensor | None = None
    teacher_topk_logp: Tensor | None = None
    entropy: Tensor | None = None
    reference_logp: Tensor | None = None
    hidden: Tensor | None = None
    logp: Tensor | None = None

    def covers(self, spec: SignalSpec) -> bool:
        """Whether every part of the teacher and the reference that `spec` asks for is present."""
        dense = self.logp is not None or self.hidden is not None
        return (
            (not spec.sampled or self.sampled_logp is not None)
            and (not spec.student_topk or self.student_topk_logp is not None)
            and (not spec.teacher_topk or self.teacher_topk_logp is not None)
            and (not spec.teacher_entropy or self.entropy is not None)
            and (not spec.reference or self.reference_logp is not None)
            and (not spec.dense or dense)
        )


@dataclass(frozen=True, slots=True)
class TokenBatch(_Columns):
    """N response tokens with what was known when they were drawn.

    ids: [N] the token. sequence: [N] request id. position: [N] index in the response, from 0.
    behaviour_logp, student_logp: [N] fp32 log mu(y), log p(y) at rollout time. author: [N] Author.
    policy_version: [N] optimiser steps the student had taken when it drew the token.
    forced: [N] bool, the token was given by the request and not drawn from any law here.
    student_entropy: [N] nats at rollout time, when the objective asked for it.
    gate: [N] uniform in (0, 1) for a random gate, a function of (seed, sequence, position).
    current_logp: [N] log p(y) of the student at this update, when a plan asked for it.
    """

    ids: Tensor
    sequence: Tensor
    position: Tensor
    behaviour_logp: Tensor
    student_logp: Tensor
    author: Tensor
    policy_version: Tensor
    forced: Tensor
    student_entropy: Tensor | None = None
    gate: Tensor | None = None
    current_logp: Tensor | None = None

    def __len__(self) -> int:
        return int(self.ids.shape[0])


@dataclass(frozen=True, slots=True)
class Rollout:
    """One finished response: T tokens (an end-of-sequence token included) and their record.

    `stats` holds per-token statistics of the behaviour, [T] each (`exponent`, `kl_spent`).
    `teacher_logp` is None where no teacher was consulted. `ended`: the shared end token was
    drawn, or the length limit was reached. `gate` and `current_logp` are filled in while training.
    """

    request: Request
    ids: Tensor
    behaviour_logp: Tensor
    student_logp: Tensor
    teacher_logp: Tensor | None
    author: Tensor
    policy_version: int
    ended: Ended
    stats: dict[str, Tensor] = field(default_factory=dict)
    signal: TeacherSignal = field(default_factory=TeacherSignal)
    student_entropy: Tensor | None = None
    gate: Tensor | None = None
    current_logp: Tensor | None = None

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def given(self) -> int:
        """How many of its first tokens the request forced."""
        return min(len(self.request.forced_ids), len(self))

    def tokens(self) -> TokenBatch:
        """The response as a batch of N = T tokens."""
        n = len(self)
        return TokenBatch(
            ids=self.ids,
            sequence=torch.full((n,), self.request.id, dtype=torch.int64),
            position=torch.arange(n),
            behaviour_logp=self.behaviour_logp,
            student_logp=self.student_logp,
            author=self.author,
            policy_version=torch.full((n,), self.policy_version, dtype=torch.int64),
            forced=torch.arange(n) < self.given,
            student_entropy=self.student_entropy,
            gate=self.gate,
            current_logp=self.current_logp,
        )


@dataclass(frozen=True, slots=True)
class Sampling:
    """How far and how sharply to sample. `temperature` 0 is greedy; it reshapes the behaviour's
    law (its recorded log-probs included), so training rollouts keep it at 1."""

    max_new_tokens: int
    temperature: float = 1.0
