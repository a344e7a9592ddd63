"""The blend of student and teacher within a KL budget that stays the same for the whole run."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from tandem.behaviours.base import Behaviour, Law
from tandem.behaviours.fields import Nats
from tandem.core.blend import solve_blend
from tandem.types import Author, Clock


def blend_within(*, student_logp: Tensor, teacher_logp: Tensor | None, budget: float) -> Law:
    """The law closest to the teacher with KL(mu‖p) <= budget nats, and what it spent.

    argmin KL(mu‖q) subject to KL(mu‖p) <= budget is mu ∝ p^(1−b) q^b with the largest feasible
    exponent b in [0, 1] (arXiv 2605.31159). A zero budget returns the student's tensor itself.
    """
    if budget == 0.0:
        zero = torch.zeros_like(student_logp[..., 0])
        return Law(student_logp, {"exponent": zero, "kl_spent": zero.clone()})
    assert teacher_logp is not None
    blend = solve_blend(student_logp=student_logp, teacher_logp=teacher_logp, budget=budget)
    return Law(blend.logp, {"exponent": blend.exponent, "kl_spent": blend.kl})


class FixedBudgetBlend(Behaviour):
    """The trust-region rule without annealing: a baseline of arXiv 2605.31159.

    Its grid there: budget in {.001, .005, .01, .02, .05}.
    """

    equation: ClassVar[str] = "argmin KL(μ‖q) subject to KL(μ‖p) ≤ ε, constant"
    source: ClassVar[str] = "arXiv 2605.31159, baseline"

    kind: Literal["fixed_budget_blend"] = "fixed_budget_blend"
    budget: Nats

    def __call__(
        self,
        *,
        student_logp: Tensor,
        teacher_logp: Tensor | None,
        clock: Clock,
        position: Tensor,
    ) -> Law:
        del clock, position
        return blend_within(
            student_logp=student_logp, teacher_logp=teacher_logp, budget=self.budget
        )

    def needs_teacher(self, clock: Clock) -> bool:
        del clock
        return self.budget > 0.0

    def author(self, clock: Clock) -> Author:
        return Author.BLEND if self.needs_teacher(clock) else Author.STUDENT

    def is_always_student(self) -> bool:
        return self.budget == 0.0

    def budget_at(self, clock: Clock) -> float:
        del clock
        return self.budget
