"""BPDG: blocks of tokens count less the further the student has moved since it drew them.

Shapes: N tokens of a rank, V shared vocabulary, n prefixes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor

from tandem.behaviours.base import Behaviour
from tandem.core.divergences import entropy
from tandem.objectives.base import Objective, Plan, Prefixes, StepTokens, TokenLoss, mean_part
from tandem.objectives.supervised import Supervised
from tandem.types import Author, Clock, SignalSpec, TeacherSignal, TokenBatch


class DriftGate(Objective):
    """Another objective, its weights multiplied by a gate on the student's drift (BPDG).

    A block is 64 neighbouring tokens of one response; its gate exp(−τ |mean(log p_0 − log p)|)
    compares the probability p_0 that the student itself (not a blend) gave each token at rollout
    with that of the student now, over the tokens that the inner objective trains on. Gates are
    divided by their mean over those tokens of the whole step and carry no gradient.

    It acts only where several updates use a rollout: before the first of them the student has not
    moved, and the gate is 1. Each update costs one more forward of the student. The gate reads the
    drawn tokens, so where it acts a baseline inside is no longer free of bias.
    """

    equation = "g·L of the inner objective, g ∝ exp(−τ |mean over the block of log p_0 − log p|)"
    source = "BPDG, arXiv 2606.24084"

    kind: Literal["drift_gate"] = "drift_gate"
    objective: Annotated[
        SerializeAsAny[Objective], Field(description="the loss whose tokens are gated")
    ]
    tau: Annotated[
        float,
        Field(
            description="τ, how steeply the gate falls with a block's drift in nats; unstated "
            "there, so it has no default; 0 leaves every token its weight"
        ),
    ]
    block: Annotated[
        int, Field(description="tokens of a block; the first of a response begins at its start")
    ] = 64

    @model_validator(mode="after")
    def _refuse_wrong_forms(self) -> DriftGate:
        reason = self.refused()
        if reason is not None:
            raise ValueError(reason)
        return self

    def refused(self) -> str | None:
        """Why these fields do not go together, in one sentence; None if they do."""
        if isinstance(self.objective, DriftGate):
            return (
                "drift_gate is refused around another drift_gate, which would count the same "
                "drift twice: give the inner objective, and one tau."
            )
        if isinstance(self.objective, Supervised):
            return (
                "drift_gate is refused around supervised, whose text does not age as the student "
                "moves, so that the gate would only shrink what is being learnt: use supervised "
                "by itself."
            )
        if self.tau < 0.0:
            return (
                f"tau is {self.tau}, but below 0 the tokens that drifted most would count most: "
                "give 0 or more."
            )
        if self.block < 1:
            return (
                f"block is {self.block}, but a block holds at least 1 token: give 1 or more, say "
                "64."
            )
        return None

    @property
    def value_name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.objective.value_name

    def needs(self) -> SignalSpec:
        return self.objective.needs()

    def planned(self) -> SignalSpec:
        return self.objective.planned() | SignalSpec(current=True)

    def reads_sampled(self) -> bool:
        return self.objective.reads_sampled()

    def check(self, behaviour: Behaviour, *, updates_per_rollout: int) -> None:
        try:
            self.objective.check(behaviour, updates_per_rollout=updates_per_rollout)
        except ValueError as reason:
            raise ValueError(f"inside drift_gate: {reason}") from None

    def gate_probability(self, *, student_logp: Tensor, teacher_logp: Tensor) -> Tensor | None:
        return self.objective.gate_probability(student_logp=student_logp, teacher_logp=teacher_logp)

    def plan(self, step: StepTokens) -> Plan:
        """The inner objective's weights times the gate, and its divisor."""
        inner = self.objective.plan(step)
        trained = inner.weight != 0
        slope = -self.tau * self._block_drift(step.tokens, trained).abs()
        everything = step.gather(slope[trained])
        if not len(everything):
            return inner
        # Shifted by the largest, which the mean takes out again: not all can underflow.
        highest = everything.amax()
        gate = (slope - highest).exp() / (everything - highest).exp().mean()
        gate = gate.to(step.tokens.student_logp.dtype).masked_fill(~trained, 1.0)
        return Plan(weight=inner.weight * gate, denominator=inner.denominator)

    def _block_drift(self, tokens: TokenBatch, trained: Tensor) -> Tensor:
        """[N] float64: the mean of log p_0 − log p over the trained tokens of each one's block."""
        drift = _drift(tokens).double().masked_fill(~trained, 0.0)
        place = torch.stack([tokens.sequence, tokens.position // self.block], dim=-1)
        blocks, which = torch.unique(place, dim=0, return_inverse=True)
        total, count = drift.new_zeros(2, len(blocks))
        total.index_add_(0, which, drift)
        count.index_add_(0, which, trained.double())
        return (total / count.clamp(min=1.0))[which]

    def loss(
        self,
        logits: Tensor,
        *,
        signal: TeacherSignal,
        tokens: TokenBatch,
        weight: Tensor,
        clock: Clock,
    ) -> TokenLoss:
        """The inner objective's, and the metric drift: mean |log p_0(y) − log p(y)|, nats."""
        inner = self.objective.loss(
            logits, signal=signal, tokens=tokens, weight=weight, clock=clock
        )
        drift = {"drift": mean_part(_drift(tokens).abs(), weight)}
        return TokenLoss(inner.surrogate, inner.value, inner.metrics | drift)

    def declared(self, at: Prefixes) -> Tensor | None:
        # Responses of one token, each a block of its own; the mean counts every token of every
        # prefix once, as a step that holds all of them would.
        gate = torch.exp(-self.tau * (at.rollout_logp - at.student_logp.detach()).abs())
        counted = self.objective.plan(_every_token(at)).weight.view_as(gate) != 0
        share = gate / gate[counted].mean()
        inner = self.objective.declared(replace(at, share=share))
        if inner is None or self.objective.reads_sampled():
            return inner
        return inner * (at.behaviour_logp.exp() * share).sum(-1)


def _drift(tokens: TokenBatch) -> Tensor:
    """[N] log p_0(y) − log p(y); 0 for an id that both mask."""
    assert tokens.current_logp is not None, "no sweep has scored the tokens"
    never = tokens.student_logp == tokens.current_logp
    return (tokens.student_logp - tokens.current_logp).masked_fill(never, 0.0)


def _every_token(at: Prefixes) -> StepTokens:
    """Each id of each prefix once, as responses of one token: what a selection is made from."""
    n, v = at.student_logp.shape
    rollout = at.rollout_logp.flatten()
    zero = torch.zeros(n * v, dtype=torch.int64)
    tokens = TokenBatch(
        ids=torch.arange(v).repeat(n),
        sequence=torch.arange(n * v),
        position=zero,
        behaviour_logp=at.behaviour_logp.flatten(),
        student_logp=rollout,
        author=zero + int(Author.STUDENT),
        policy_version=zero,
        forced=zero.bool(),
        student_entropy=entropy(at.rollout_logp).repeat_interleave(v),
        current_logp=at.student_logp.detach().flatten(),
    )
    signal = TeacherSignal(
        sampled_logp=at.teacher_logp.flatten(),
        entropy=entropy(at.teacher_logp).repeat_interleave(v),
        reference_logp=at.reference_logp.flatten(),
    )
    return StepTokens(tokens, signal, at.clock)
