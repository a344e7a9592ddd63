"""Which distribution the next token is drawn from; a new one is a file and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tandem.behaviours.arithmetic_mixture import ArithmeticMixture
from tandem.behaviours.base import Behaviour, CompletionSource, Law
from tandem.behaviours.fixed_budget_blend import FixedBudgetBlend
from tandem.behaviours.fixed_exponent_blend import FixedExponentBlend
from tandem.behaviours.off_policy_mix import OffPolicyMix
from tandem.behaviours.speculative_kd import SpeculativeKD
from tandem.behaviours.student import Student
from tandem.behaviours.teacher import Teacher
from tandem.behaviours.teacher_prefix import TeacherPrefix
from tandem.behaviours.temperature_warmup import TemperatureWarmup
from tandem.behaviours.trust_region_blend import TrustRegionBlend

AnyBehaviour = Annotated[
    Student
    | TemperatureWarmup
    | TrustRegionBlend
    | FixedBudgetBlend
    | FixedExponentBlend
    | SpeculativeKD
    | ArithmeticMixture
    | TeacherPrefix
    | OffPolicyMix
    | Teacher,
    Field(discriminator="kind"),
]

__all__ = [
    "AnyBehaviour",
    "ArithmeticMixture",
    "Behaviour",
    "CompletionSource",
    "FixedBudgetBlend",
    "FixedExponentBlend",
    "Law",
    "OffPolicyMix",
    "SpeculativeKD",
    "Student",
    "Teacher",
    "TeacherPrefix",
    "TemperatureWarmup",
    "TrustRegionBlend",
]
