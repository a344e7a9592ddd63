"""Temperature warm-up: the student alone, sampled sharper at first."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from tandem.behaviours.base import Behaviour, Law
from tandem.behaviours.fields import WarmupSteps
from tandem.core.schedules import linear
from tandem.types import Author, Clock


def _positive(value: float) -> float:
    if value <= 0.0:
        raise ValueError(
            f"start_temperature is {value}, but the student is sampled from p^(1/temperature): "
            "give a number above 0 (0.8, for example)."
        )
    return value


class TemperatureWarmup(Behaviour):
    """mu ∝ p^(1/tau) with tau = tau_0 + (1 − tau_0) min(k/K, 1): a baseline of arXiv 2605.31159.

    Only sampling is sharpened, the loss stays at temperature 1. The temperature acts on the
    canonical log p (end ids already merged). Grid there: tau_0 in {.8, .9, .95}, K in {15, 25}.
    """

    equation: ClassVar[str] = "μ ∝ p^(1/τ), τ = τ_0 + (1 − τ_0) min(k/K, 1)"
    source: ClassVar[str] = "arXiv 2605.31159, baseline"

    kind: Literal["temperature_warmup"] = "temperature_warmup"
    start_temperature: Annotated[
        float,
        Field(description="tau_0, the temperature at step 0; above 0, and 1 is the plain student"),
        AfterValidator(_positive),
    ]
    warmup_steps: WarmupSteps

    def temperature(self, clock: Clock) -> float:
        """Sampling temperature at this clock."""
        return linear(self.start_temperature, 1.0, clock.step, self.warmup_steps)

    def __call__(
        self,
        *,
        student_logp: Tensor,
        teacher_logp: Tensor | None,
        clock: Clock,
        position: Tensor,
    ) -> Law:
        del teacher_logp, position
        if self.is_student(clock):
            return Law(student_logp)
        return Law(torch.log_softmax(student_logp / self.temperature(clock), dim=-1))

    def needs_teacher(self, clock: Clock) -> bool:
        del clock
        return False

    def author(self, clock: Clock) -> Author:
        del clock
        return Author.STUDENT

    def is_student(self, clock: Clock) -> bool:
        return self.temperature(clock) == 1.0

    def is_always_student(self) -> bool:
        return self.start_temperature == 1.0
