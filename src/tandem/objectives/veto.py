"""Veto: the student is drawn to the teacher times a power of itself, and less so over time.

Shapes: N tokens of a chunk, V shared vocabulary, n prefixes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tandem.core.divergences import forward_kl, reverse_kl
from tandem.core.schedules import linear_to_zero
from tandem.core.support import reverse_kl_full
from tandem.core.targets import veto_target
from tandem.core.vocabulary_forms import forward_kl_full
from tandem.objectives.base import Prefixes, TokenLoss, mean_part
from tandem.objectives.shaped import Shaped
from tandem.types import Clock, TeacherSignal, TokenBatch


class Veto(Shaped):
    """A divergence between the student and Q ∝ q·p^β, p detached, β falling linearly to 0 (Veto).

    The exponents do not sum to one: it changes the target and not the behaviour. Where β > 0 the
    fixed point is not the teacher but p ∝ q^(1/(1−β)), a sharper one; β = 0 is the plain KL. Q is
    normalised over the whole vocabulary. Of one drawn token only the reverse direction can be
    followed: its reward log q − (1−β) log p leaves out log Z, which changes the value and not the
    expected gradient.
    """

    equation = "KL(p‖Q) or KL(Q‖p), Q ∝ q·sg[p]^β, β = β_0 (1 − k/K)"
    source = "Veto, arXiv 2601.07155; the reverse direction as a baseline of TRB, arXiv 2605.31159"
    value_name = "veto_kl"

    kind: Literal["veto"] = "veto"
    start_beta: Annotated[
        float,
        Field(
            description="the student's exponent in the target at step 0, in [0, 1); TRB's grid: "
            ".2, .4, .6, .8"
        ),
    ]
    horizon: Annotated[
        int | None,
        Field(
            description="optimiser steps over which the exponent falls to 0; left out: the whole "
            "run, as in the original"
        ),
    ] = None
    direction: Annotated[
        Literal["reverse", "forward"],
        Field(
            description="reverse: KL(p‖Q), which TRB's baseline takes; forward: KL(Q‖p); the "
            "original has both"
        ),
    ] = "reverse"
    support: Annotated[
        Literal["full", "sampled"],
        Field(description="the sum over the whole vocabulary, or the drawn token (reverse only)"),
    ] = "full"

    def refused(self) -> str | None:
        if not 0.0 <= self.start_beta < 1.0:
            return (
                f"start_beta is {self.start_beta}, but from 1 on the student's own probability "
                "leaves the loss or is rewarded: give a number in [0, 1), 0.4 for example."
            )
        if self.horizon is not None and self.horizon < 1:
            return (
                f"horizon is {self.horizon}, but the exponent falls over at least 1 optimiser "
                "step: leave it out for the whole run, or set start_beta to 0 for none."
            )
        if self.direction == "forward" and self.support == "sampled":
            return (
                "direction forward is refused with support sampled: KL(Q‖p) is a mean over tokens "
                "of the target, and none is drawn from it: use support full, or direction reverse."
            )
        return super().refused()

    def beta(self, clock: Clock) -> float:
        """The student's exponent in the target at this clock."""
        horizon = clock.total_steps if self.horizon is None else self.horizon
        return linear_to_zero(self.start_beta, clock.step, horizon)

    def reward(self, *, log_p: Tensor, log_q: Tensor, clock: Clock) -> Tensor:
        reward = log_q - (1.0 - self.beta(clock)) * log_p
        return reward.masked_fill(log_p == -torch.inf, 0.0)

    def loss(
        self,
        logits: Tensor,
        *,
        signal: TeacherSignal,
        tokens: TokenBatch,
        weight: Tensor,
        clock: Clock,
    ) -> TokenLoss:
        """Score N tokens. Metrics: veto_beta; full: student_entropy (nats); sampled: reward, and
        importance_weight where there is one. The sampled value estimates KL(p‖Q) − log Z."""
        result = super().loss(logits, signal=signal, tokens=tokens, weight=weight, clock=clock)
        beta = mean_part(torch.full_like(result.value, self.beta(clock)), weight)
        return TokenLoss(result.surrogate, result.value, result.metrics | {"veto_beta": beta})

    def _full(
        self, logits: Tensor, signal: TeacherSignal, weight: Tensor, clock: Clock
    ) -> TokenLoss:
        assert signal.logp is not None, "support full needs the dense teacher"
        target = self._target(torch.log_softmax(logits.detach(), dim=-1), signal.logp, clock)
        form = reverse_kl_full if self.direction == "reverse" else forward_kl_full
        scored, entropy = form(logits=logits, log_q=target)
        metrics = {"student_entropy": mean_part(entropy, weight)}
        return TokenLoss(scored.surrogate, scored.value, metrics)

    def _target(self, log_p: Tensor, log_q: Tensor, clock: Clock) -> Tensor:
        return veto_target(log_p=log_p, log_q=log_q, beta=self.beta(clock))

    def declared(self, at: Prefixes) -> Tensor:
        if self.support == "sampled":
            return super().declared(at)
        own = at.student_logp.detach() * self.beta(at.clock)
        target = torch.log_softmax(at.teacher_logp + own, dim=-1)
        divergence = reverse_kl if self.direction == "reverse" else forward_kl
        return divergence(student_logp=at.student_logp, teacher_logp=target)
