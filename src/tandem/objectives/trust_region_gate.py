"""The mathematics of a trust region's gate, from log-ratios log q/p of any shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.objectives.trust_region_rules import Gate, Outlier


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustGate:
    """How likely a token is trusted, and the reward it gets; fields as in TrustRegion."""

    gate: Gate
    outlier: Outlier
    floor: float | None
    positive_branch: bool

    def shares(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """The chance min(1, q/p) that a token is trusted, and that it is an outlier; without a
        gate 1 or 0, by the floor. They add up to 1."""
        if self.gate == "none":
            assert self.floor is not None
            trusted = (ratio > self.floor).to(ratio.dtype)
            return trusted, 1.0 - trusted
        below = ratio.clamp(max=0.0)
        return below.exp(), -torch.expm1(below)

    def reward(self, ratio: Tensor, trusted: Tensor, outlier: Tensor) -> Tensor:
        """trusted · log q/p, plus what outliers and likelier tokens get; finite also where the
        teacher masks an id."""
        reward = trusted * ratio.masked_fill(trusted == 0, 0.0)
        if self.outlier == "clip":
            reward = reward + outlier * ratio.clamp(min=self.floor)
        if self.positive_branch:
            reward = reward + ratio.clamp(min=0.0)
        return reward

    def expected(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """The reward with the gate integrated out, and the chance of an outlier."""
        trusted, outlier = self.shares(ratio)
        return self.reward(ratio, trusted, outlier), outlier


def log_rho(*, log_p: Tensor, log_q: Tensor) -> Tensor:
    """log q − log p of the same shape; 0 where the student masks an id, whatever the teacher."""
    no_p = log_p == -torch.inf
    return (log_q - log_p.masked_fill(no_p, 0.0)).masked_fill(no_p, 0.0)
