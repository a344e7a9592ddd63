"""Batches of the student's own responses and of given ones, as GKD and DistiLLM train on."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from tandem.behaviours.giving import Giving
from tandem.core.counter import uniform
from tandem.types import Clock, Draw


def _a_share(value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(
            f"on_policy_fraction is {value}, but it is a share of the responses: give a number "
            "from 0 to 1."
        )
    return value


class OffPolicyMix(Giving):
    """Each response is the student's own with the chance of the on-policy fraction, else a whole
    given completion.

    Fraction 1 is the student, 0 fixed data: sequence-level distillation, or SFT. The toss is made
    for each response (the papers' algorithms make one for a whole batch).
    """

    equation: ClassVar[str] = "y ~ p with chance λ, else a whole given completion"
    source: ClassVar[str] = "arXiv 2306.13649, 2402.03898"

    kind: Literal["off_policy_mix"] = "off_policy_mix"
    on_policy_fraction: Annotated[
        float,
        Field(description="lambda, the share of the student's own responses; GKD's is .5"),
        AfterValidator(_a_share),
    ] = 0.5

    def gives(self) -> bool:
        return self.on_policy_fraction < 1.0

    def draws(self) -> bool:
        return self.on_policy_fraction > 0.0

    def given(self, clock: Clock, *, sequence: Tensor, limit: int, seed: int) -> Tensor:
        del clock
        u = uniform(seed, sequence, torch.zeros_like(sequence), Draw.GIVEN)
        own = u.double() < self.on_policy_fraction
        return torch.where(own, 0, limit)
