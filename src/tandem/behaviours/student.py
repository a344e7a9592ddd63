"""The student itself: plain on-policy distillation."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from tandem.behaviours.base import Behaviour, Law
from tandem.types import Author, Clock


class Student(Behaviour):
    """mu = p. The law is the student's own log-prob tensor, bit for bit."""

    equation: ClassVar[str] = "μ = p"
    source: ClassVar[str] = "on-policy distillation"

    kind: Literal["student"] = "student"

    def __call__(
        self,
        *,
        student_logp: Tensor,
        teacher_logp: Tensor | None,
        clock: Clock,
        position: Tensor,
    ) -> Law:
        del teacher_logp, clock, position
        return Law(student_logp)

    def needs_teacher(self, clock: Clock) -> bool:
        del clock
        return False

    def author(self, clock: Clock) -> Author:
        del clock
        return Author.STUDENT

    def is_always_student(self) -> bool:
        return True
