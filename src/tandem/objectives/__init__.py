"""The per-token losses; a new one is a file and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tandem.objectives.asymmetric import Asymmetric
from tandem.objectives.base import Objective, Plan, TokenLoss
from tandem.objectives.constant_advantage import ConstantAdvantage
from tandem.objectives.drift_gate import DriftGate
from tandem.objectives.entropy_aware import EntropyAware
from tandem.objectives.entropy_selected import EntropySelected
from tandem.objectives.extrapolated import Extrapolated
from tandem.objectives.forward_kl import ForwardKL
from tandem.objectives.generalized_jsd import GeneralizedJSD
from tandem.objectives.proximal import Proximal
from tandem.objectives.relaxed import Relaxed
from tandem.objectives.reverse_kl import ReverseKL
from tandem.objectives.skew_kl import SkewKL
from tandem.objectives.supervised import Supervised
from tandem.objectives.trust_region import TrustRegion
from tandem.objectives.veto import Veto

AnyObjective = Annotated[
    ReverseKL
    | ForwardKL
    | GeneralizedJSD
    | SkewKL
    | Veto
    | Extrapolated
    | Proximal
    | TrustRegion
    | EntropyAware
    | EntropySelected
    | Relaxed
    | Asymmetric
    | DriftGate
    | Supervised
    | ConstantAdvantage,
    Field(discriminator="kind"),
]

__all__ = [
    "AnyObjective",
    "Asymmetric",
    "ConstantAdvantage",
    "DriftGate",
    "EntropyAware",
    "EntropySelected",
    "Extrapolated",
    "ForwardKL",
    "GeneralizedJSD",
    "Objective",
    "Plan",
    "Proximal",
    "Relaxed",
    "ReverseKL",
    "SkewKL",
    "Supervised",
    "TokenLoss",
    "TrustRegion",
    "Veto",
]
