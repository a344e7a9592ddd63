"""Trust-region behaviour blending (TRB, arXiv 2605.31159)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from tandem.behaviours.base import Behaviour, Law
from tandem.behaviours.fields import Nats, WarmupSteps
from tandem.behaviours.fixed_budget_blend import blend_within
from tandem.core.schedules import linear_to_zero
from tandem.types import Author, Clock


class TrustRegionBlend(Behaviour):
    """At step k < K the blend within budget · (1 − k/K) nats, then the student itself.

    k counts optimiser steps from 0, so the first step has the whole budget and step K none. The
    paper's grid: budget in {.001, .005, .01, .02, .05}, K in {15, 25, 50}.
    """

    equation: ClassVar[str] = (
        "argmin KL(μ‖q) subject to KL(μ‖p) ≤ ε_0 (1 − k/K): μ ∝ p^(1−β) q^β, largest feasible β ≤ 1"
    )
    source: ClassVar[str] = "arXiv 2605.31159"

    kind: Literal["trust_region_blend"] = "trust_region_blend"
    budget: Nats
    warmup_steps: WarmupSteps

    def __call__(
        self,
        *,
        student_logp: Tensor,
        teacher_logp: Tensor | None,
        clock: Clock,
        position: Tensor,
    ) -> Law:
        del position
        return blend_within(
            student_logp=student_logp, teacher_logp=teacher_logp, budget=self.budget_at(clock)
        )

    def needs_teacher(self, clock: Clock) -> bool:
        return self.budget_at(clock) > 0.0

    def author(self, clock: Clock) -> Author:
        return Author.BLEND if self.needs_teacher(clock) else Author.STUDENT

    def is_always_student(self) -> bool:
        return self.budget == 0.0

    def budget_at(self, clock: Clock) -> float:
        return linear_to_zero(self.budget, clock.step, self.warmup_steps)
