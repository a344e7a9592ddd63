"""TrOPD's off-policy guidance (arXiv 2606.01249): the teacher begins, the student goes on."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from tandem.behaviours.giving import Giving
from tandem.core.counter import uniform
from tandem.core.schedules import cosine_to_zero
from tandem.types import Clock, Draw


def _at_least_one_step(value: int | None) -> int | None:
    if value is not None and value < 1:
        raise ValueError(
            f"horizon is {value}, but the prefix shrinks over at least 1 optimiser step: leave it "
            "out for the whole run, or use the behaviour kind student for no prefix."
        )
    return value


class TeacherPrefix(Giving):
    """The first l tokens of a teacher's completion, then the student; l anneals to 0.

    The longest prefix at step t is L_max = ½ L (1 + cos(πt/T)) tokens, rounded down: L is the
    longest response, T the horizon, and after it every token is the student's. The paper says
    "maximum length" and "cosine"; the formula is ours. A completion that ends before l is given
    whole, its end token included, and leaves the student nothing: `rollout/without_student` is the
    share of such responses.
    """

    equation: ClassVar[str] = (
        "y_1…y_l ~ q given, then μ = p; l ≤ L_max(t) = ½ L (1 + cos(πt/T)), then 0"
    )
    source: ClassVar[str] = "arXiv 2606.01249 (L_max and `uniform` ours)"

    kind: Literal["teacher_prefix"] = "teacher_prefix"
    prefix: Annotated[
        Literal["max", "uniform"],
        Field(
            description="l = L_max, the paper taken at its word, which gives whole completions at "
            "first; or uniform in 0 … L_max, our default (the paper does not say)"
        ),
    ] = "uniform"
    horizon: Annotated[
        int | None,
        Field(description="T in optimiser steps; unset is the whole run, as in the paper"),
        AfterValidator(_at_least_one_step),
    ] = None

    def longest(self, clock: Clock, *, limit: int) -> int:
        """L_max in tokens at this clock."""
        horizon = clock.total_steps if self.horizon is None else self.horizon
        # A whole number, such as ½ L half way, must not lose a token to the sine's last digit.
        return int(cosine_to_zero(float(limit), clock.step, horizon) + 1e-9)

    def given(self, clock: Clock, *, sequence: Tensor, limit: int, seed: int) -> Tensor:
        longest = self.longest(clock, limit=limit)
        if self.prefix == "max":
            return torch.full_like(sequence, longest)
        u = uniform(seed, sequence, torch.zeros_like(sequence), Draw.GIVEN)
        # 0 … L_max are L_max + 1 equal cells of (0, 1).
        return (u.double() * (longest + 1)).long()
