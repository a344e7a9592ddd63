"""What every behaviour is: a configuration that, called, says which law the next token has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tandem.settings import Settings
from tandem.types import Author, Clock


@dataclass(frozen=True, slots=True)
class Law:
    """The next token's law: normalised fp32 `logp` [*, V] (−inf on forbidden ids), and per-token
    `stats` [*] such as `exponent` and `kl_spent` (nats).

    A method with a rule of its own for the student's drafts gives `keeps` and `replacement`: a
    draft y stays where `keeps` [*, V] is true and is else replaced by a draw from `replacement`
    [*, V] (normalised log-probs). That rule has to draw from `logp`: logp = log(p·keeps +
    (Σ p over the rest)·replacement). Without them a draft stays with probability min(1, mu/p).
    """

    logp: Tensor
    stats: dict[str, Tensor] = field(default_factory=dict)
    keeps: Tensor | None = None
    replacement: Tensor | None = None


@dataclass(frozen=True, slots=True)
class CompletionSource:
    """Where given tokens come from: the teacher sampled on the fly, a dataset's `completion`
    column, or a folder of teacher samples that is filled once and reused (`cache`, only then)."""

    kind: Literal["teacher", "dataset", "cache"]
    cache: str | None = None


class Behaviour(Settings, ABC):
    """Which distribution the next token is drawn from. No state: time comes from the clock."""

    # A Literal string in each method; `str` here could not be narrowed by a mutable attribute.
    kind: Any

    # For docs/methods.md: the law, in one line, and where it is published.
    equation: ClassVar[str] = ""
    source: ClassVar[str] = ""

    @abstractmethod
    def __call__(
        self,
        *,
        student_logp: Tensor,
        teacher_logp: Tensor | None,
        clock: Clock,
        position: Tensor,
    ) -> Law:
        """The law at each prefix.

        student_logp: [*, V] normalised canonical log p, fp32.
        teacher_logp: [*, V] log q, or None when `needs_teacher(clock)` is false.
        position: [*] index of the token in its response, from 0.
        """

    @abstractmethod
    def needs_teacher(self, clock: Clock) -> bool:
        """Whether the law at this clock reads the teacher; the engine frees its cache if not."""

    @abstractmethod
    def author(self, clock: Clock) -> Author:
        """Whose tokens these are at this clock."""

    def is_student(self, clock: Clock) -> bool:
        """Whether the law at this clock is the student's own, exactly."""
        return self.author(clock) is Author.STUDENT

    def is_always_student(self) -> bool:
        """Whether `is_student` holds at every clock: what a loss that reads the sampled token
        without a weight relies on. False unless a method knows better."""
        return False

    def draws(self) -> bool:
        """Whether any token is drawn from its law; False where every response is given whole."""
        return True

    def gives(self) -> bool:
        """Whether it opens responses with tokens of a given completion."""
        return False

    def completion_source(self) -> CompletionSource | None:
        """Where those completions come from; None where it gives nothing."""
        return None

    def given(self, clock: Clock, *, sequence: Tensor, limit: int, seed: int) -> Tensor:
        """How many tokens of its completion open each response, [n] int64: 0 is none, `limit` all
        of it (a completion is never longer, and a shorter one is then whole).

        sequence: [n] request ids. limit: the longest response, in tokens. A pure function of
        these, so that neither batches, nor ranks, nor a resumed run change it.
        """
        del clock, limit, seed
        return torch.zeros_like(sequence)

    def budget_at(self, clock: Clock) -> float | None:
        """The KL budget in nats at this clock, for the log; None where the method has none."""
        del clock
        return None
