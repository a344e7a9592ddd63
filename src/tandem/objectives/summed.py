"""What the divergences share that are summed over ids and never read the drawn token.

Such a loss is right under any behaviour. A method says what the divergence is, plainly, and how it
is taken over the whole vocabulary. Shapes: N tokens of a chunk, V shared vocabulary, K support,
E events on a support.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tandem.core.events import Tail, events
from tandem.core.support import Scored, log_softmax_at, mass
from tandem.objectives.base import Objective, Prefixes, TokenLoss, likeliest, mean_part
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch

DEFAULT_TOP_K = 64


class Summed(Objective):
    """A divergence over the whole vocabulary or on a top-k support.

    Fields left out are filled in and appear so in the resolved recipe.
    """

    # The tail that a support gets where none is given.
    default_tail: ClassVar[Tail] = "renormalise"

    # A Literal in each method, "full" among them.
    support: Any
    top_k: Annotated[
        int | None,
        Field(
            description="tokens in a top-k support; 64 where the support has one, as TrOPD "
            "(arXiv 2606.01249) takes for its forward KL"
        ),
    ] = None
    tail: Annotated[
        Tail | None,
        Field(
            description="the mass off a top-k support: none leaves it out, renormalise conditions "
            "both models on the support, bucket counts it as one event"
        ),
    ] = None

    @abstractmethod
    def divergence(self, *, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence of student and teacher [*, E] -> [*], by autograd; with tail none also of
        truncated laws."""

    @abstractmethod
    def over_vocabulary(self, *, logits: Tensor, log_q: Tensor) -> tuple[Scored, Tensor]:
        """The same from logits and log q [N, V], and the student's entropy: [N] each."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        support = given.get("support", cls.model_fields["support"].default)
        if support == "full":
            given.setdefault("tail", "none")
        else:
            given.setdefault("top_k", DEFAULT_TOP_K)
            given.setdefault("tail", cls.default_tail)
        return given

    @model_validator(mode="after")
    def _refuse_wrong_forms(self) -> Summed:
        reason = self.refused()
        if reason is not None:
            raise ValueError(reason)
        return self

    def refused(self) -> str | None:
        """Why these fields do not go together, in one sentence; None if they do."""
        if self.support == "full" and self.top_k is not None:
            return (
                f"top_k is {self.top_k}, but support full has no k: remove top_k, or use support "
                "teacher_topk."
            )
        if self.support == "full" and self.tail != "none":
            return (
                f"tail {self.tail} is refused with support full, which leaves no tail: use tail "
                "none."
            )
        if self.top_k is not None and self.top_k < 1:
            return (
                f"top_k is {self.top_k}, but a support holds at least 1 token: give 1 or more, "
                f"say {DEFAULT_TOP_K}."
            )
        if self.top_k == 1 and self.tail == "renormalise":
            return (
                "tail renormalise is refused with top_k 1: a loss renormalised for both models on "
                "a single token is identically 0: give top_k 2 or more, or use tail bucket."
            )
        return None

    def needs(self) -> SignalSpec:
        k = self.top_k or 0
        return SignalSpec(
            student_topk=k if self.support == "student_topk" else 0,
            teacher_topk=k if self.support == "teacher_topk" else 0,
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
        """Score N tokens. Metrics, full: student_entropy (nats). Top-k: student_mass and
        teacher_mass on the support."""
        del tokens, clock
        if self.support == "full":
            assert signal.logp is not None, "support full needs the dense teacher"
            scored, entropy = self.over_vocabulary(logits=logits, log_q=signal.logp)
            metrics = {"student_entropy": mean_part(entropy, weight)}
            return TokenLoss(scored.surrogate, scored.value, metrics)
        ids, log_q = self._support(signal)
        log_p = log_softmax_at(logits=logits, ids=ids)
        value = self.divergence(log_p=self._events(log_p), log_q=self._events(log_q))
        metrics = {
            "student_mass": mean_part(mass(logp=log_p.detach()), weight),
            "teacher_mass": mean_part(mass(logp=log_q), weight),
        }
        return TokenLoss(value, value.detach(), metrics)

    def _support(self, signal: TeacherSignal) -> tuple[Tensor, Tensor]:
        if self.support == "student_topk":
            ids, log_q = signal.student_topk_ids, signal.student_topk_logp
        else:
            ids, log_q = signal.teacher_topk_ids, signal.teacher_topk_logp
        assert ids is not None and log_q is not None, f"the signal lacks {self.support}"
        # Another reader of the record may have asked for more; columns fall from the likeliest.
        return ids[:, : self.top_k], log_q[:, : self.top_k]

    def _events(self, logp: Tensor) -> Tensor:
        assert self.tail is not None, "filled in"
        return events(logp=logp, tail=self.tail)

    def declared(self, at: Prefixes) -> Tensor:
        log_p, log_q = at.student_logp, at.teacher_logp
        if self.support != "full":
            source = at.rollout_logp if self.support == "student_topk" else log_q
            ids = likeliest(source, self.top_k or 0).indices
            log_p, log_q = log_p.gather(-1, ids), log_q.gather(-1, ids)
        if self.tail == "renormalise":
            log_p, log_q = torch.log_softmax(log_p, -1), torch.log_softmax(log_q, -1)
        elif self.tail == "bucket":
            log_p, log_q = _with_rest(log_p), _with_rest(log_q)
        return self.divergence(log_p=log_p, log_q=log_q)


def _with_rest(logp: Tensor) -> Tensor:
    return torch.cat([logp, torch.log1p(-logp.exp().sum(-1, keepdim=True))], dim=-1)
