"""Field types that several behaviours share, each with the sentence it is refused with."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo


def _at_least_zero_nats(value: float, info: ValidationInfo) -> float:
    if value < 0:
        raise ValueError(
            f"{info.field_name} is {value}, but a KL budget cannot be negative: "
            "give nats per token, 0 or more (0.02, for example)."
        )
    return value


def _at_least_one_step(value: int, info: ValidationInfo) -> int:
    if value < 1:
        raise ValueError(
            f"{info.field_name} is {value}, but a warm-up lasts at least 1 optimiser step: "
            "for none, use the behaviour kind student."
        )
    return value


Nats = Annotated[
    float,
    Field(description="KL(mu‖p) allowed per token, in nats; 0 gives the student itself"),
    AfterValidator(_at_least_zero_nats),
]
WarmupSteps = Annotated[
    int,
    Field(description="length of the warm-up in optimiser steps, counted from step 0"),
    AfterValidator(_at_least_one_step),
]
