"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass

# Of what is computed in float64 and should be equal.
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its name as a claim, whether it holds, and what was seen."""

    claim: str
    holds: bool
    detail: str
