"""The per-token losses; a new one is a file and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tandem.objectives.base import Objective, Plan, TokenLoss
from tandem.objectives.constant_advantage import ConstantAdvantage
from tandem.objectives.reverse_kl import ReverseKL
from tandem.objectives.supervised import Supervised
from tandem.objectives.trust_region import TrustRegion

AnyObjective = Annotated[
    ReverseKL | TrustRegion | Supervised | ConstantAdvantage,
    Field(discriminator="kind"),
]

__all__ = [
    "AnyObjective",
    "ConstantAdvantage",
    "Objective",
    "Plan",
    "ReverseKL",
    "Supervised",
    "TokenLoss",
    "TrustRegion",
]
