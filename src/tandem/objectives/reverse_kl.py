"""Reverse KL, KL(student‖teacher) per prefix: the loss of on-policy distillation.

Shapes: N tokens of a chunk, V shared vocabulary, K support.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tandem.core.divergences import reverse_kl
from tandem.core.estimators import reverse_kl_k1, reverse_kl_k2
from tandem.core.support import (
    Scored,
    log_softmax_at,
    mass,
    reverse_kl_bucket,
    reverse_kl_detached,
    reverse_kl_full,
    reverse_kl_plain,
    reverse_kl_renormalised,
    reverse_kl_weights_renormalised,
)
from tandem.objectives.base import Prefixes, TokenLoss, likeliest, mean_part
from tandem.objectives.reverse_kl_rules import (
    DEFAULT_TAIL,
    DEFAULT_TOP_K,
    REALISATIONS,
    Realisation,
    Support,
    Tail,
    family,
    refusal,
)
from tandem.objectives.sampled import Sampled, drawn, expected_reward
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch

_ON_SUPPORT: dict[tuple[str | None, str | None], Callable[..., Scored]] = {
    ("none", "detached"): reverse_kl_detached,
    ("none", "autograd"): reverse_kl_plain,
    ("renormalise_weights", "detached"): reverse_kl_weights_renormalised,
    ("renormalise", "autograd"): reverse_kl_renormalised,
    ("bucket", "autograd"): reverse_kl_bucket,
}


class ReverseKL(Sampled):
    """KL(p‖q) at every visited prefix, p the student and q the teacher.

    The default is the form that TRB (arXiv 2605.31159) trains with: the student's 16 most likely
    tokens at rollout time, weights renormalised and detached. Fields left out are filled in with
    the one realisation whose gradient is right, and appear so in the resolved recipe. Forms that
    carry no signal, or the wrong one, are refused with the reason.
    """

    equation = "KL(p‖q) = Σ_v p (log p − log q)"
    source = "vanilla OPD; top-16 with detached weights as in TRB, arXiv 2605.31159"

    kind: Literal["reverse_kl"] = "reverse_kl"
    support: Annotated[
        Support, Field(description="the tokens that are summed over at each prefix")
    ] = "student_topk"
    top_k: Annotated[
        int | None, Field(description="tokens in a top-k support; 16 where the support has one")
    ] = None
    tail: Annotated[
        Tail | None,
        Field(description="the mass off a top-k support; renormalise_weights if left out"),
    ] = None
    realisation: Annotated[
        Realisation | None,
        Field(description="how the gradient is taken; the right one for support and tail"),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        kind = family(str(given.setdefault("support", cls.model_fields["support"].default)))
        if kind not in DEFAULT_TAIL:
            return given  # not a support at all: the field's own error says so
        if kind == "topk":
            given.setdefault("top_k", DEFAULT_TOP_K)
        tail = str(given.setdefault("tail", DEFAULT_TAIL[kind]))
        if (kind, tail) in REALISATIONS:
            given.setdefault("realisation", REALISATIONS[kind, tail][0])
        return given

    def refused(self) -> str | None:
        return refusal(
            support=self.support,
            top_k=self.top_k,
            tail=self.tail,
            realisation=self.realisation,
            importance=self.importance,
            importance_limit=self.importance_limit,
            baseline=self.baseline,
        )

    def reads_sampled(self) -> bool:
        return self.support == "sampled"

    def instead(self) -> str:
        return ", or use support student_topk or full"

    def needs(self) -> SignalSpec:
        return SignalSpec(
            sampled=self.support == "sampled",
            student_topk=self.top_k or 0 if self.support == "student_topk" else 0,
            teacher_topk=self.top_k or 0 if self.support == "teacher_topk" else 0,
            dense=self.support == "full" or self.baseline == "expected",
        )

    def loss(
        self,
        logits: Tensor,
        *,
        signal: TeacherSignal,
        tokens: TokenBatch,
        weight: Tensor,
        clock: Clock,
    ) -> TokenLoss:
        """Score N tokens; metrics are taken over those with a weight other than 0.

        full: student_entropy (nats). Top-k: student_mass and teacher_mass on the support.
        sampled: log_ratio (log p(y) − log q(y), nats), and importance_weight where there is one.
        """
        del clock
        if self.support == "full":
            return self._full(logits, signal, weight)
        if self.support == "sampled":
            return self._sampled(logits, signal, tokens, weight)
        return self._on_support(logits, signal, weight)

    def _full(self, logits: Tensor, signal: TeacherSignal, weight: Tensor) -> TokenLoss:
        assert signal.logp is not None, "support full needs the dense teacher"
        scored, entropy = reverse_kl_full(logits=logits, log_q=signal.logp)
        metrics = {"student_entropy": mean_part(entropy, weight)}
        return TokenLoss(scored.surrogate, scored.value, metrics)

    def _on_support(self, logits: Tensor, signal: TeacherSignal, weight: Tensor) -> TokenLoss:
        if self.support == "student_topk":
            ids, log_q = signal.student_topk_ids, signal.student_topk_logp
        else:
            ids, log_q = signal.teacher_topk_ids, signal.teacher_topk_logp
        assert ids is not None and log_q is not None, f"the signal lacks {self.support}"
        # Another reader of the record may have asked for more; columns fall from the likeliest.
        ids, log_q = ids[:, : self.top_k], log_q[:, : self.top_k]
        log_p = log_softmax_at(logits=logits, ids=ids)
        scored = _ON_SUPPORT[self.tail, self.realisation](log_p=log_p, log_q=log_q)
        metrics = {
            "student_mass": mean_part(mass(logp=log_p.detach()), weight),
            "teacher_mass": mean_part(mass(logp=log_q), weight),
        }
        return TokenLoss(scored.surrogate, scored.value, metrics)

    def _sampled(
        self, logits: Tensor, signal: TeacherSignal, tokens: TokenBatch, weight: Tensor
    ) -> TokenLoss:
        log_p, log_q = self.sampled_logp(logits, tokens), drawn(signal)
        log_ratio = log_p.detach() - log_q
        metrics = {"log_ratio": mean_part(log_ratio, weight)}
        if self.realisation == "k2":
            correction = self.correction(log_p=log_p, reward=-log_ratio, tokens=tokens)
            if correction is not None:
                metrics["importance_weight"] = mean_part(correction, weight)
            scored = reverse_kl_k2(log_p=log_p, log_q=log_q, weight=correction)
            return TokenLoss(scored.surrogate, scored.value, metrics)
        reward = -log_ratio
        if self.baseline == "expected":
            assert signal.logp is not None, "the baseline needs the dense teacher"
            every = signal.logp - torch.log_softmax(logits.detach(), dim=-1)
            reward = reward - expected_reward(logits=logits, reward=every)
        scored, more = self.weighted(log_p=log_p, reward=reward, tokens=tokens, weight=weight)
        # What is logged stays the estimate of the divergence, which a baseline would hide.
        return TokenLoss(scored.surrogate, self._estimate(log_p, log_q, tokens), metrics | more)

    def _estimate(self, log_p: Tensor, log_q: Tensor, tokens: TokenBatch) -> Tensor:
        log_p = log_p.detach()
        correction = self.correction(log_p=log_p, reward=log_q - log_p, tokens=tokens)
        return reverse_kl_k1(log_p=log_p, log_q=log_q, weight=correction).value

    def declared(self, at: Prefixes) -> Tensor:
        if self.support == "sampled":
            return self.declared_gradient(at, at.teacher_logp - at.student_logp)
        if self.support == "full":
            return reverse_kl(student_logp=at.student_logp, teacher_logp=at.teacher_logp)
        source = at.rollout_logp if self.support == "student_topk" else at.teacher_logp
        ids = likeliest(source, self.top_k or 0).indices
        log_p, log_q = at.student_logp.gather(-1, ids), at.teacher_logp.gather(-1, ids)
        p, ratio = log_p.exp(), log_p - log_q
        if self.realisation == "detached":
            share = p / p.sum(-1, keepdim=True) if self.tail == "renormalise_weights" else p
            return ((share * ratio).detach() * log_p).sum(-1)
        if self.tail == "renormalise":
            return reverse_kl(
                student_logp=torch.log_softmax(log_p, -1), teacher_logp=torch.log_softmax(log_q, -1)
            )
        tail_p, tail_q = 1 - p.sum(-1), 1 - log_q.exp().sum(-1)
        bucket = tail_p * (tail_p / tail_q).log() if self.tail == "bucket" else 0.0
        return (p * ratio).sum(-1) + bucket
