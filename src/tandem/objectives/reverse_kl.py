"""Reverse KL, KL(student‖teacher) per prefix: the loss of on-policy distillation.

Shapes: N tokens of a chunk, V shared vocabulary, K support.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tandem.behaviours.base import Behaviour
from tandem.core.estimators import importance_weight, reverse_kl_k1, reverse_kl_k2
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
from tandem.objectives.base import Objective, TokenLoss
from tandem.objectives.reverse_kl_rules import (
    DEFAULT_TAIL,
    DEFAULT_TOP_K,
    REALISATIONS,
    Importance,
    Realisation,
    Support,
    Tail,
    family,
    refusal,
)
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch

_ON_SUPPORT: dict[tuple[str | None, str | None], Callable[..., Scored]] = {
    ("none", "detached"): reverse_kl_detached,
    ("none", "autograd"): reverse_kl_plain,
    ("renormalise_weights", "detached"): reverse_kl_weights_renormalised,
    ("renormalise", "autograd"): reverse_kl_renormalised,
    ("bucket", "autograd"): reverse_kl_bucket,
}


class ReverseKL(Objective):
    """KL(p‖q) at every visited prefix, p the student and q the teacher.

    The default is the form that TRB (arXiv 2605.31159) trains with: the student's 16 most likely
    tokens at rollout time, weights renormalised and detached. Fields left out are filled in with
    the one realisation whose gradient is right, and appear so in the resolved recipe. Forms that
    carry no signal, or the wrong one, are refused with the reason.
    """

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
    importance: Annotated[
        Importance, Field(description="weight p/mu of a sampled token drawn from another law")
    ] = "none"
    importance_limit: Annotated[
        float | None, Field(description="largest weight p/mu when importance is truncated")
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

    @model_validator(mode="after")
    def _refuse_wrong_forms(self) -> ReverseKL:
        reason = refusal(
            support=self.support,
            top_k=self.top_k,
            tail=self.tail,
            realisation=self.realisation,
            importance=self.importance,
            importance_limit=self.importance_limit,
        )
        if reason is not None:
            raise ValueError(reason)
        return self

    def check(self, behaviour: Behaviour) -> None:
        unweighted = self.support == "sampled" and self.importance == "none"
        if unweighted and not behaviour.is_always_student():
            raise ValueError(
                "support sampled scores the drawn token as if the student had drawn it, but "
                f"behaviour {behaviour.kind} draws from another law, which biases the gradient: "
                "set importance to exact or truncated, or use support student_topk or full."
            )

    def needs(self) -> SignalSpec:
        return SignalSpec(
            sampled=self.support == "sampled",
            student_topk=self.top_k or 0 if self.support == "student_topk" else 0,
            teacher_topk=self.top_k or 0 if self.support == "teacher_topk" else 0,
            dense=self.support == "full",
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
        metrics = {"student_entropy": _total(entropy, weight)}
        return TokenLoss(scored.surrogate, scored.value, metrics)

    def _on_support(self, logits: Tensor, signal: TeacherSignal, weight: Tensor) -> TokenLoss:
        if self.support == "student_topk":
            ids, log_q = signal.student_topk_ids, signal.student_topk_logp
        else:
            ids, log_q = signal.teacher_topk_ids, signal.teacher_topk_logp
        assert ids is not None and log_q is not None, f"the signal lacks {self.support}"
        log_p = log_softmax_at(logits=logits, ids=ids)
        scored = _ON_SUPPORT[self.tail, self.realisation](log_p=log_p, log_q=log_q)
        metrics = {
            "student_mass": _total(mass(logp=log_p.detach()), weight),
            "teacher_mass": _total(mass(logp=log_q), weight),
        }
        return TokenLoss(scored.surrogate, scored.value, metrics)

    def _sampled(
        self, logits: Tensor, signal: TeacherSignal, tokens: TokenBatch, weight: Tensor
    ) -> TokenLoss:
        log_q = signal.sampled_logp
        assert log_q is not None, "the signal lacks the sampled token"
        log_p = log_softmax_at(logits=logits, ids=tokens.ids.unsqueeze(-1)).squeeze(-1)
        metrics = {"log_ratio": _total(log_p.detach() - log_q, weight)}
        correction = None
        if self.importance != "none":
            correction = importance_weight(
                log_p=log_p, behaviour_logp=tokens.behaviour_logp, limit=self.importance_limit
            )
            metrics["importance_weight"] = _total(correction, weight)
        estimator = reverse_kl_k2 if self.realisation == "k2" else reverse_kl_k1
        scored = estimator(log_p=log_p, log_q=log_q, weight=correction)
        return TokenLoss(scored.surrogate, scored.value, metrics)


def _total(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, count) of [N] values over the tokens that are trained on."""
    trained = weight != 0
    return torch.where(trained, values, 0.0).sum(), trained.sum()
