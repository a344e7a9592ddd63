"""What every objective is: a configuration that plans a step's weights, then scores its tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tandem.behaviours.base import Behaviour
from tandem.settings import Settings
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch


@dataclass(frozen=True, slots=True)
class Plan:
    """Weight of each token of the whole step [N], and this rank's share of the one divisor."""

    weight: Tensor
    denominator: float


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Per-token results of one chunk, unweighted and unreduced.

    surrogate: [N] what is differentiated. value: [N] the quantity it stands for, for the log
    (they differ for policy-gradient and detached forms). metrics: name -> (sum, count).
    """

    surrogate: Tensor
    value: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Objective(Settings, ABC):
    """The per-token loss. Written as if full logits were there; called chunk by chunk."""

    # A Literal string in each method; `str` here could not be narrowed by a mutable attribute.
    kind: Any

    @abstractmethod
    def needs(self) -> SignalSpec:
        """The per-token quantities this loss reads."""

    @abstractmethod
    def loss(
        self,
        logits: Tensor,
        *,
        signal: TeacherSignal,
        tokens: TokenBatch,
        weight: Tensor,
        clock: Clock,
    ) -> TokenLoss:
        """Score N tokens.

        logits: [N, V] the current student's canonical logits, fp32 with gradient, not yet
        normalised; −inf on ids that are masked in both models.
        weight: [N] the plan's weights; the caller multiplies, sums and divides.
        """

    def plan(self, tokens: TokenBatch, signal: TeacherSignal, clock: Clock) -> Plan:
        """Weights and divisor from the whole step's tokens; by default 1 each, and their count."""
        del signal, clock
        return Plan(weight=torch.ones(len(tokens)), denominator=float(len(tokens)))

    def check(self, behaviour: Behaviour) -> None:
        """Raise ValueError, with the reason, if this loss is wrong under that behaviour."""
        del behaviour
