"""Which distribution the next token is drawn from; a new one is a file and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tandem.behaviours.base import Behaviour, Law
from tandem.behaviours.fixed_budget_blend import FixedBudgetBlend
from tandem.behaviours.fixed_exponent_blend import FixedExponentBlend
from tandem.behaviours.student import Student
from tandem.behaviours.teacher import Teacher
from tandem.behaviours.temperature_warmup import TemperatureWarmup
from tandem.behaviours.trust_region_blend import TrustRegionBlend

AnyBehaviour = Annotated[
    Student
    | TemperatureWarmup
    | TrustRegionBlend
    | FixedBudgetBlend
    | FixedExponentBlend
    | Teacher,
    Field(discriminator="kind"),
]

__all__ = [
    "AnyBehaviour",
    "Behaviour",
    "FixedBudgetBlend",
    "FixedExponentBlend",
    "Law",
    "Student",
    "Teacher",
    "TemperatureWarmup",
    "TrustRegionBlend",
]
