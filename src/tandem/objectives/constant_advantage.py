"""A control without a teacher: every drawn token gets the same negative advantage.

Shapes: N tokens of a chunk, V shared vocabulary.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tandem.objectives.base import Prefixes, TokenLoss, mean_part
from tandem.objectives.sampled import Sampled
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch


class ConstantAdvantage(Sampled):
    """A policy gradient whose advantage is one negative number: no teacher is asked for anything.

    Its expected gradient on tokens of the student is exactly zero, since Σ_v p ∇log p = 0, and
    stays so under exact weights. What it does to a run comes from finite samples alone: the
    tokens that a step happened to draw lose, all others gain, and this cancels only over many
    draws. So a gain that the control shows too is no evidence of anything learnt from a teacher.
    Truncated and clipped weights break the balance, and the expectation is not zero.
    """

    equation = "−a log p(y), a < 0 for every drawn token: in expectation −a Σ_v p ∇log p = 0"
    source = "one fixed negative advantage: arXiv 2608.31046; the value −1 is ours"
    value_name = "constant_advantage"

    kind: Literal["constant_advantage"] = "constant_advantage"
    advantage: Annotated[
        float,
        Field(description="a, the advantage of every drawn token, below 0; −1 is ours"),
    ] = -1.0

    def refused(self) -> str | None:
        if self.advantage >= 0.0:
            return (
                f"advantage is {self.advantage}, but this control pushes every drawn token down: "
                "give a number below 0, say -1."
            )
        if self.baseline != "none":
            return (
                f"baseline {self.baseline} is refused: the mean of a constant is that constant, "
                "and taking it off leaves no advantage at all: use baseline none."
            )
        return super().refused()

    def needs(self) -> SignalSpec:
        return SignalSpec()

    def loss(
        self,
        logits: Tensor,
        *,
        signal: TeacherSignal,
        tokens: TokenBatch,
        weight: Tensor,
        clock: Clock,
    ) -> TokenLoss:
        """Score N tokens. Metrics: sampled_logp (mean log p(y), nats), which says what the
        constant value cannot; importance_weight where there is one."""
        del signal, clock
        log_p = self.sampled_logp(logits, tokens)
        reward = torch.full_like(log_p, self.advantage).detach()
        scored, metrics = self.weighted(log_p=log_p, reward=reward, tokens=tokens, weight=weight)
        metrics["sampled_logp"] = mean_part(log_p, weight)
        return TokenLoss(scored.surrogate, scored.value, metrics)

    def declared(self, at: Prefixes) -> Tensor:
        return self.declared_gradient(at, torch.full_like(at.student_logp, self.advantage))
