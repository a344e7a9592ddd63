"""What every objective is: a configuration that plans a step's weights, then scores its tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from tandem.behaviours.base import Behaviour
from tandem.settings import Settings
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch


@dataclass(frozen=True, slots=True)
class StepTokens:
    """What a plan sees: this rank's tokens of one update, and a way to the other ranks' values.

    gather: [n] of this rank to the values of all ranks, concatenated, so that a quantile is that
    of the whole step. Collective: every rank calls it equally often, also with no token at all.
    """

    tokens: TokenBatch
    signal: TeacherSignal
    clock: Clock
    gather: Callable[[Tensor], Tensor] = lambda values: values


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


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Full distributions at n prefixes, for saying in plain mathematics what a loss declares.

    student_logp: [n, V] log p of the student that is trained, with gradient. teacher_logp,
    behaviour_logp: [n, V] log q, log mu. rollout_logp: [n, V] log p at rollout time (equal to
    student_logp where rollouts are fresh). reference_logp: [n, V] log pi_ref. share: [n, V] a
    factor on each drawn token's weight, from a gate around the objective (None: 1); a loss that
    reads the drawn token counts each token by it, for any other the gate does so itself.
    """

    student_logp: Tensor
    teacher_logp: Tensor
    behaviour_logp: Tensor
    rollout_logp: Tensor
    reference_logp: Tensor
    clock: Clock
    share: Tensor | None = None


class Objective(Settings, ABC):
    """The per-token loss. Written as if full logits were there; called chunk by chunk."""

    # A Literal string in each method; `str` here could not be narrowed by a mutable attribute.
    kind: Any

    # For docs/methods.md: what is minimised, in one line, and where it is published.
    equation: ClassVar[str] = ""
    source: ClassVar[str] = ""
    # The name under which TokenLoss.value is logged.
    value_name: ClassVar[str] = "reverse_kl"

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

    def planned(self) -> SignalSpec:
        """What `plan` reads of the signal and of `current_logp`; what the rollouts did not record
        is filled in by one sweep without gradients before the plan is made."""
        return SignalSpec()

    def reads_sampled(self) -> bool:
        """Whether the loss depends on which token was drawn, so that it must know from what law.
        Tokens that a request forced were drawn from none: such a loss gives them weight 0."""
        return False

    def plan(self, step: StepTokens) -> Plan:
        """Weights and divisor from the whole step's tokens; by default 1 for each token that can
        be trained on, and their count."""
        weight = torch.ones(len(step.tokens))
        if self.reads_sampled():
            weight = (~step.tokens.forced).to(weight.dtype)
        return Plan(weight=weight, denominator=float(weight.sum()))

    def check(self, behaviour: Behaviour, *, updates_per_rollout: int) -> None:
        """Raise ValueError, with the reason, if this loss is wrong under that behaviour, or for
        rollouts that several updates use."""
        del behaviour, updates_per_rollout

    def gate_probability(self, *, student_logp: Tensor, teacher_logp: Tensor) -> Tensor | None:
        """The chance that a random gate opens, from log p(y) and log q(y) of any shape; None
        where the method has none. It opens where `tokens.gate` lies below."""
        del student_logp, teacher_logp
        return None

    def declared(self, at: Prefixes) -> Tensor | None:
        """[n] a per-prefix loss over the whole vocabulary whose gradient in `student_logp` is what
        this objective follows in expectation over tokens (drawn from the behaviour) and gates.

        Written plainly, with `detach` where the method stops a gradient; only its gradient counts.
        None, the default, declares nothing, and nothing is then checked.
        """
        del at
        return None


def likeliest(logp: Tensor, k: int) -> torch.return_types.topk:
    """`values` and `indices` [*, k] of the k largest of [*, V], detached; all of them if V < k."""
    return logp.detach().topk(min(k, logp.shape[-1]), dim=-1)


def mean_part(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, count) of [N] values over the tokens that are trained on: one part of a metric."""
    trained = weight != 0
    return torch.where(trained, values.detach(), 0.0).sum(), trained.sum()
