"""Supervised: cross-entropy on the teacher's own text, the loss of sequence-level distillation.

Shapes: N tokens of a chunk, V shared vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tandem.behaviours.base import Behaviour
from tandem.core.support import log_softmax_at
from tandem.objectives.base import Objective, Plan, Prefixes, StepTokens, TokenLoss
from tandem.types import Author, Clock, SignalSpec, TeacherSignal, TokenBatch


class Supervised(Objective):
    """−log p(y) on every token y that the teacher wrote: sequence-level distillation and SFT.

    (Kim and Rush 2016, arXiv 1606.07947.) Written means drawn by the teacher, or given by the
    request under the teacher's name, as a data set's completions are; other tokens count nothing.
    With y ~ q its expectation is KL(q‖p) + H(q) at prefixes of the teacher. No teacher runs for it.
    """

    equation = "−log p(y) on the teacher's tokens y"
    source = "sequence-level distillation, arXiv 1606.07947; mean over tokens, not sequences (ours)"
    value_name = "cross_entropy"

    kind: Literal["supervised"] = "supervised"

    def check(self, behaviour: Behaviour, *, updates_per_rollout: int) -> None:
        del updates_per_rollout  # given text does not age
        # No behaviour becomes the teacher on the way: the first step tells.
        if behaviour.gives() or behaviour.author(Clock(0, 1)) is Author.TEACHER:
            return
        raise ValueError(
            f"objective supervised imitates the teacher's own tokens, but behaviour "
            f"{behaviour.kind} yields none, so nothing would be trained: use behaviour teacher, or "
            "one that opens responses with a given completion, such as teacher_prefix."
        )

    def needs(self) -> SignalSpec:
        return SignalSpec()

    def plan(self, step: StepTokens) -> Plan:
        """1 for each of the teacher's tokens, given or drawn, 0 for others; their count divides."""
        weight = (step.tokens.author == int(Author.TEACHER)).float()
        return Plan(weight=weight, denominator=float(weight.sum()))

    def loss(
        self,
        logits: Tensor,
        *,
        signal: TeacherSignal,
        tokens: TokenBatch,
        weight: Tensor,
        clock: Clock,
    ) -> TokenLoss:
        """Score N tokens; inf, without gradient, where the student cannot say the token."""
        del signal, weight, clock
        log_p = log_softmax_at(logits=logits, ids=tokens.ids.unsqueeze(-1)).squeeze(-1)
        cross_entropy = (-log_p).masked_fill(log_p == -torch.inf, torch.inf)
        return TokenLoss(cross_entropy, cross_entropy.detach())

    def declared(self, at: Prefixes) -> Tensor:
        return -(at.behaviour_logp.exp() * at.student_logp).sum(-1)
