"""The per-token losses; a new one is a file and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tandem.objectives.base import Objective, Plan, TokenLoss
from tandem.objectives.reverse_kl import ReverseKL

# One more method turns this into Annotated[ReverseKL | Other, Field(discriminator="kind")].
AnyObjective = Annotated[ReverseKL, Field(description="the per-token loss")]

__all__ = ["AnyObjective", "Objective", "Plan", "ReverseKL", "TokenLoss"]
