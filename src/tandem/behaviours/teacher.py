"""The teacher alone: the far end of every blend."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from tandem.behaviours.base import Behaviour, Law
from tandem.core.divergences import kl
from tandem.types import Author, Clock


class Teacher(Behaviour):
    """mu = q. The exponent is 1 and the KL spent is KL(q‖p)."""

    equation: ClassVar[str] = "μ = q"
    source: ClassVar[str] = "the far end of every blend"

    kind: Literal["teacher"] = "teacher"

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
        spent = kl(log_p=teacher_logp, log_q=student_logp)
        return Law(teacher_logp, {"exponent": torch.ones_like(spent), "kl_spent": spent})

    def needs_teacher(self, clock: Clock) -> bool:
        del clock
        return True

    def author(self, clock: Clock) -> Author:
        del clock
        return Author.TEACHER
