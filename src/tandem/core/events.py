"""A law of V ids seen on a support of K of them: what becomes of the mass that lies outside.

A divergence of two laws may then be taken over the events that are left. Shapes: K support.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tandem.core.support import log_mass, tail_mass

Tail = Literal["none", "renormalise", "bucket"]


def events(*, logp: Tensor, tail: Tail) -> Tensor:
    """Log-probs [*, K] of the support (their mass is at most one) to those of the events.

    none: the K ids as they are [*, K], no law any more. renormalise: conditioned on the support
    [*, K]. bucket: one more event, everything off the support [*, K + 1]: a coarser partition.
    """
    if tail == "none":
        return logp
    if tail == "renormalise":
        return logp - log_mass(logp)
    return torch.cat([logp, tail_mass(logp).log().to(logp.dtype).unsqueeze(-1)], dim=-1)
