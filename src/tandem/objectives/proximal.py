"""TOP-D: the log-ratio softened by a share of the student, so that no token costs without bound.

Shapes: N tokens of a chunk, V shared vocabulary.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tandem.objectives.shaped import Shaped
from tandem.types import Clock


class Proximal(Shaped):
    """The policy gradient of log(αρ + 1 − α), ρ = q/p (TOP-D).

    The reward is log(m/p) for m = αq + (1−α)p: the gradient is that of KL(p‖sg[m]), a target that
    stays near the student, and (1−α) times it is that of the generalised JSD with β = α. For α < 1
    the reward is at least log(1−α), also on ids that only the teacher masks; α = 1 is K1.
    """

    equation = "KL(p‖sg[αq + (1−α)p]); reward log(αρ + 1 − α), ρ = q/p"
    source = "TOP-D, arXiv 2607.04751"
    value_name = "proximal_kl"

    kind: Literal["proximal"] = "proximal"
    alpha: Annotated[
        float,
        Field(
            description="the teacher's share in the target, in (0, 1]; 1 is plain OPD, and no "
            "default is known to us"
        ),
    ]

    def refused(self) -> str | None:
        if not 0.0 < self.alpha <= 1.0:
            return (
                f"alpha is {self.alpha}, but the teacher's share in the target lies in (0, 1], and "
                "at 0 nothing is learnt: give 0.5, for example."
            )
        return super().refused()

    def reward(self, *, log_p: Tensor, log_q: Tensor, clock: Clock) -> Tensor:
        del clock
        reward = log_q - log_p
        if self.alpha < 1.0:
            floor = reward.new_full((), math.log1p(-self.alpha))
            reward = torch.logaddexp(reward + math.log(self.alpha), floor)
        return reward.masked_fill(log_p == -torch.inf, 0.0)
