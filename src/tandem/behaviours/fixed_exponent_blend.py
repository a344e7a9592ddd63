"""The geometric blend with one exponent everywhere, whatever KL that spends."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from tandem.behaviours.base import Behaviour, Law
from tandem.core.blend import blend_logp
from tandem.core.blend_passes import MASKED
from tandem.types import Author, Clock


def _inside_unit_interval(value: float) -> float:
    if not 0.0 < value < 1.0:
        raise ValueError(
            f"exponent is {value}, but a blend lies strictly between 0 and 1: for 0 use the "
            "behaviour kind student, for 1 the kind teacher."
        )
    return value


class FixedExponentBlend(Behaviour):
    """mu ∝ p^(1−a) q^a with a constant a: how summaries of arXiv 2605.31159 describe a baseline
    ("fixed alpha"); the paper itself fixes the budget, which is `fixed_budget_blend`.

    Where the two have no id in common there is no blend: the student speaks, at exponent 0.
    """

    equation: ClassVar[str] = "μ ∝ p^(1−a) q^a, constant a"
    source: ClassVar[str] = "summaries of arXiv 2605.31159"

    kind: Literal["fixed_exponent_blend"] = "fixed_exponent_blend"
    exponent: Annotated[
        float,
        Field(description="weight of the teacher's log-prob, strictly between 0 and 1"),
        AfterValidator(_inside_unit_interval),
    ]

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
        logp, spent = blend_logp(
            student_logp=student_logp, teacher_logp=teacher_logp, exponent=self.exponent
        )
        common = (student_logp > MASKED) & (teacher_logp > MASKED)
        exponent = torch.where(common.any(-1), self.exponent, 0.0).to(spent.dtype)
        return Law(logp, {"exponent": exponent, "kl_spent": spent})

    def needs_teacher(self, clock: Clock) -> bool:
        del clock
        return True

    def author(self, clock: Clock) -> Author:
        del clock
        return Author.BLEND
