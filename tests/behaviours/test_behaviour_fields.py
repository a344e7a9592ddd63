"""What a recipe may not say of a behaviour."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from tandem.behaviours import (
    ArithmeticMixture,
    Behaviour,
    FixedBudgetBlend,
    FixedExponentBlend,
    OffPolicyMix,
    SpeculativeKD,
    TeacherPrefix,
    TemperatureWarmup,
    TrustRegionBlend,
)


@pytest.mark.parametrize(
    "cls, fields, sentence",
    [
        (
            TrustRegionBlend,
            {"budget": -0.1, "warmup_steps": 15},
            "budget is -0.1, but a KL budget cannot be negative: give nats per token, 0 or more "
            "(0.02, for example).",
        ),
        (
            FixedBudgetBlend,
            {"budget": -1},
            "budget is -1.0, but a KL budget cannot be negative: give nats per token, 0 or more "
            "(0.02, for example).",
        ),
        (
            TrustRegionBlend,
            {"budget": 0.1, "warmup_steps": 0},
            "warmup_steps is 0, but a warm-up lasts at least 1 optimiser step: for none, use the "
            "behaviour kind student.",
        ),
        (
            TemperatureWarmup,
            {"start_temperature": 0.0, "warmup_steps": 15},
            "start_temperature is 0.0, but the student is sampled from p^(1/temperature): give a "
            "number above 0 (0.8, for example).",
        ),
        *(
            (
                FixedExponentBlend,
                {"exponent": exponent},
                f"exponent is {exponent}, but a blend lies strictly between 0 and 1: for 0 use "
                "the behaviour kind student, for 1 the kind teacher.",
            )
            for exponent in (-0.5, 0.0, 1.0, 2.0)
        ),
        *(
            (
                ArithmeticMixture,
                {"weight": weight},
                f"weight is {weight}, but a mixture lies strictly between 0 and 1: for 0 use the "
                "behaviour kind student, for 1 the kind teacher.",
            )
            for weight in (-0.5, 0.0, 1.0, 2.0)
        ),
        (
            SpeculativeKD,
            {"top_k": 0, "teacher_temperature": 1.0},
            "top_k is 0, but the teacher has to accept at least 1 token: give a number of ids "
            "(25, for example).",
        ),
        (
            SpeculativeKD,
            {"top_k": 5, "teacher_temperature": 0.0},
            "teacher_temperature is 0.0, but replacements are drawn from q^(1/temperature): give "
            "a number above 0 (1.0, for example).",
        ),
        (
            TeacherPrefix,
            {"horizon": 0},
            "horizon is 0, but the prefix shrinks over at least 1 optimiser step: leave it out "
            "for the whole run, or use the behaviour kind student for no prefix.",
        ),
        *(
            (
                OffPolicyMix,
                {"on_policy_fraction": fraction},
                f"on_policy_fraction is {fraction}, but it is a share of the responses: give a "
                "number from 0 to 1.",
            )
            for fraction in (-0.1, 1.5)
        ),
        *(
            (
                cls,
                {"completions": "cache"},
                "completions is cache, but no folder is named: set cache to one, which is filled "
                "as the run goes.",
            )
            for cls in (TeacherPrefix, OffPolicyMix)
        ),
        (
            OffPolicyMix,
            {"completions": "dataset", "cache": "kept"},
            "cache is 'kept', but completions is dataset, which keeps nothing: leave cache out, "
            "or set completions to cache.",
        ),
    ],
)
def test_a_field_out_of_range_is_refused_with_a_sentence(
    cls: type[Behaviour], fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        cls(**fields)
    (error,) = caught.value.errors()
    assert error["msg"] == f"Value error, {sentence}"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_budget_is_a_finite_number(value: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        FixedBudgetBlend(budget=value)


@pytest.mark.parametrize(
    "cls",
    [TrustRegionBlend, FixedBudgetBlend, FixedExponentBlend, TemperatureWarmup, SpeculativeKD],
)
def test_a_mathematical_choice_has_no_default(cls: type[Behaviour]) -> None:
    with pytest.raises(ValidationError) as caught:
        cls.model_validate({})
    assert {error["type"] for error in caught.value.errors()} == {"missing"}
