"""MiniLLM's teacher-mixed sampling (arXiv 2306.08543): a weighted mean of both laws."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from tandem.behaviours.base import Behaviour, Law
from tandem.core.divergences import kl
from tandem.types import Author, Clock


def _inside_unit_interval(value: float) -> float:
    if not 0.0 < value < 1.0:
        raise ValueError(
            f"weight is {value}, but a mixture lies strictly between 0 and 1: for 0 use the "
            "behaviour kind student, for 1 the kind teacher."
        )
    return value


class ArithmeticMixture(Behaviour):
    """mu = a q + (1 − a) p: each token is the teacher's with chance a, else the student's.

    The paper weighs its losses by p/mu and takes a = .2. Statistic: `kl_spent`.
    """

    equation: ClassVar[str] = "μ = α q + (1 − α) p"
    source: ClassVar[str] = "arXiv 2306.08543"

    kind: Literal["arithmetic_mixture"] = "arithmetic_mixture"
    weight: Annotated[
        float,
        Field(description="the teacher's share a, strictly between 0 and 1; the paper's is .2"),
        AfterValidator(_inside_unit_interval),
    ] = 0.2

    def __call__(
        self,
        *,
        student_logp: Tensor,
        teacher_logp: Tensor | None,
        clock: Clock,
        position: Tensor,
    ) -> Law:
        del clock, position
        assert teacher_logp is not None
        logp = torch.logaddexp(
            teacher_logp + math.log(self.weight), student_logp + math.log1p(-self.weight)
        )
        return Law(logp, {"kl_spent": kl(log_p=logp, log_q=student_logp)})

    def needs_teacher(self, clock: Clock) -> bool:
        del clock
        return True

    def author(self, clock: Clock) -> Author:
        del clock
        return Author.BLEND
