"""Speculative knowledge distillation (SKD, arXiv 2410.11325): the student drafts, the teacher
replaces what it would hardly say itself."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from tandem.behaviours.base import Behaviour, Law
from tandem.core.divergences import kl
from tandem.types import Author, Clock


def _at_least_one(value: int) -> int:
    if value < 1:
        raise ValueError(
            f"top_k is {value}, but the teacher has to accept at least 1 token: give a number of "
            "ids (25, for example)."
        )
    return value


def _positive(value: float) -> float:
    if value <= 0.0:
        raise ValueError(
            f"teacher_temperature is {value}, but replacements are drawn from q^(1/temperature): "
            "give a number above 0 (1.0, for example)."
        )
    return value


class SpeculativeKD(Behaviour):
    """A student's token outside the teacher's top-k is replaced by a draw from the teacher.

    One token's law is mu(v) = p(v) 1[v in K] + (1 − Σ_K p) q_tau(v): K holds the teacher's `top_k`
    likeliest ids (of equal ones at its edge the smaller ids), and q_tau ∝ q^(1/tau) is the whole
    teacher. Where all ids are in K it is the student's law, bit for bit; the vocabulary's size is
    not known before, so the method never says that it is the student. No schedule. As a baseline
    of arXiv 2605.31159: top_k in {15, 25, 50}, tau in {.2, .6, 1}.

    Statistics: `replaced` = 1 − Σ_K p, the chance of a replacement, and `kl_spent`.
    """

    equation: ClassVar[str] = (
        "μ(v) = p(v) 1[v ∈ K] + (1 − Σ_K p) q_τ(v), K = top-k of q, no schedule"
    )
    source: ClassVar[str] = "arXiv 2410.11325"

    kind: Literal["speculative_kd"] = "speculative_kd"
    top_k: Annotated[
        int,
        Field(description="how many of the teacher's likeliest ids it accepts from the student"),
        AfterValidator(_at_least_one),
    ]
    teacher_temperature: Annotated[
        float,
        Field(description="tau, the temperature of the teacher's replacements; above 0"),
        AfterValidator(_positive),
    ]

    def __call__(
        self,
        *,
        student_logp: Tensor,
        teacher_logp: Tensor | None,
        clock: Clock,
        position: Tensor,
    ) -> Law:
        """Raises ValueError where `top_k` is more than the vocabulary."""
        del clock, position
        assert teacher_logp is not None
        if self.top_k > student_logp.shape[-1]:
            raise ValueError(
                f"behaviour.top_k is {self.top_k}, but the models share {student_logp.shape[-1]} "
                "ids: lower it to that or less"
            )
        accepted = likeliest(teacher_logp, self.top_k)
        # Summed over the rejected ids, not as 1 − the rest: exactly 0 where none has mass.
        rejected = student_logp.masked_fill(accepted, -torch.inf).logsumexp(-1, keepdim=True)
        replacement = teacher_logp
        if self.teacher_temperature != 1.0:
            replacement = torch.log_softmax(teacher_logp / self.teacher_temperature, -1)
        kept = student_logp.masked_fill(~accepted, -torch.inf)
        logp = torch.logaddexp(kept, rejected + replacement)
        spent = kl(log_p=logp, log_q=student_logp)
        stats = {"replaced": rejected[..., 0].exp(), "kl_spent": spent}
        return Law(logp, stats, keeps=accepted, replacement=replacement)

    def needs_teacher(self, clock: Clock) -> bool:
        del clock
        return True

    def author(self, clock: Clock) -> Author:
        del clock
        return Author.BLEND


def likeliest(logp: Tensor, k: int) -> Tensor:
    """Whether an id is among the k likeliest of its row, [*, V] bool: exactly k of them, equal
    ones at the edge in the order of their ids, on any device."""
    # Which of several equal values `topk` takes is unspecified, but not the smallest value it has.
    edge = logp.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    if not logp.is_cuda:  # a GPU's host would have to wait for the answer
        found = logp >= edge
        if bool((found.sum(-1) == k).all()):
            return found
    above, level = logp > edge, logp == edge
    room = k - above.sum(-1, keepdim=True)
    return above | (level & (level.cumsum(-1, dtype=torch.int32) <= room))
