"""EOPD: forward KL added to the reverse where the teacher itself is unsure.

Shapes: N tokens of a chunk, V shared vocabulary, K the teacher's top-k, n prefixes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from tandem.core.divergences import entropy, forward_kl
from tandem.core.support import log_softmax_at
from tandem.objectives.base import Prefixes, TokenLoss, likeliest, mean_part
from tandem.objectives.reverse_kl import ReverseKL
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch


class EntropyAware(ReverseKL):
    """OPD plus forward KL on the teacher's top-k where the teacher's entropy is high (EOPD).

    The forward term is added to the reverse one and replaces nothing. It is not renormalised: its
    gradient in the logits is α (m_T p − q 1[K]), m_T = Σ_K q, which is not 0 where the models
    agree. It never reads the drawn token, so no importance weight multiplies it. Both terms are
    divided by the number of all trained tokens; where the reverse term reads the drawn token,
    tokens that the request gave count in neither.

    The entropy H(q) is over the whole vocabulary. A threshold that no entropy reaches (log V is the
    largest there is) leaves `reverse_kl`.
    """

    equation = "KL(p‖q) + α 1[H(q) > τ] Σ_{v∈K} q (log q − log p), K the teacher's top-k"
    source = "EOPD, arXiv 2603.07079"
    value_name = "entropy_aware"

    kind: Literal["entropy_aware"] = "entropy_aware"  # pyright: ignore[reportIncompatibleVariableOverride]
    threshold: Annotated[
        float, Field(description="τ, nats of teacher entropy above which the forward KL is added")
    ] = 0.8
    alpha: Annotated[float, Field(description="α, the weight of the forward KL, at least 0")] = 1.0
    teacher_top_k: Annotated[
        int, Field(description="the teacher's likeliest tokens, on which the forward KL is taken")
    ] = 16

    def refused(self) -> str | None:
        if self.threshold < 0.0:
            return (
                f"threshold is {self.threshold}, but no entropy is below 0: give 0 to add the "
                "forward KL wherever the teacher is not certain, or the published 0.8."
            )
        if self.alpha < 0.0:
            return (
                f"alpha is {self.alpha}, which would drive the student away from the teacher: "
                "give 0 or more, 1 as published."
            )
        if self.teacher_top_k < 1:
            return (
                f"teacher_top_k is {self.teacher_top_k}, but a support holds at least 1 token: "
                "give 1 or more, 16 as published."
            )
        return super().refused()

    def needs(self) -> SignalSpec:
        return super().needs() | SignalSpec(teacher_topk=self.teacher_top_k, teacher_entropy=True)

    def loss(
        self,
        logits: Tensor,
        *,
        signal: TeacherSignal,
        tokens: TokenBatch,
        weight: Tensor,
        clock: Clock,
    ) -> TokenLoss:
        """Score N tokens. Metrics: those of reverse_kl; unsure_share, the share of tokens with
        H(q) > τ; forward_kl, its mean over those."""
        opd = super().loss(logits, signal=signal, tokens=tokens, weight=weight, clock=clock)
        ids, log_q = signal.teacher_topk_ids, signal.teacher_topk_logp
        assert ids is not None and log_q is not None, "the signal lacks the teacher's top-k"
        assert signal.entropy is not None, "the signal lacks the teacher's entropy"
        log_p = log_softmax_at(logits=logits, ids=ids[:, : self.teacher_top_k])
        away = forward_kl(student_logp=log_p, teacher_logp=log_q[:, : self.teacher_top_k])
        unsure = signal.entropy > self.threshold
        term = self.alpha * away.masked_fill(~unsure, 0.0)
        metrics = opd.metrics | {
            "unsure_share": mean_part(unsure.to(away.dtype), weight),
            "forward_kl": mean_part(away, weight * unsure),
        }
        return TokenLoss(opd.surrogate + term, opd.value + term.detach(), metrics)

    def declared(self, at: Prefixes) -> Tensor:
        top = likeliest(at.teacher_logp, self.teacher_top_k)
        away = forward_kl(
            student_logp=at.student_logp.gather(-1, top.indices), teacher_logp=top.values
        )
        if at.share is not None and self.reads_sampled():
            away = away * (at.behaviour_logp.exp() * at.share).sum(-1)
        return (
            super().declared(at) + self.alpha * (entropy(at.teacher_logp) > self.threshold) * away
        )
