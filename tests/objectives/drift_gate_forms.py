"""Objectives that a drift gate is put around, and the gate as its tests use it."""

from __future__ import annotations

from typing import Any

import pytest
from gated_steps import (
    name,
)

from tandem.objectives import (
    Asymmetric,
    DriftGate,
    EntropyAware,
    EntropySelected,
    Objective,
    Relaxed,
    ReverseKL,
    TrustRegion,
)

EXACT: dict[str, Any] = {"importance": "exact"}
CLIPPED: dict[str, Any] = {"importance": "clipped", "importance_limit": 0.2}
INNER: list[Objective] = [
    ReverseKL(support="full"),
    ReverseKL(top_k=3),
    ReverseKL(support="sampled", **EXACT),
    ReverseKL(support="sampled", **CLIPPED),
    ReverseKL(support="sampled", importance="truncated", importance_limit=1.2),
    ReverseKL(support="sampled", baseline="expected", **EXACT),
    EntropyAware(top_k=3, teacher_top_k=3, threshold=1.2),
    EntropyAware(support="sampled", teacher_top_k=3, threshold=1.2, **EXACT),
    EntropySelected(fraction=0.4, support="full"),
    EntropySelected(fraction=0.4, **EXACT),
    Relaxed(stages="one", **EXACT),
    Relaxed(top_fraction=0.4, **CLIPPED),
    Asymmetric(top_k=3, **EXACT),
    TrustRegion(top_k=3, **EXACT),
    TrustRegion(top_k=3, gate="expected", support="full"),
]


def label(inner: Objective) -> str:
    return f"{inner.kind}-{name(inner)}"


OVER_INNER = pytest.mark.parametrize("inner", INNER, ids=label)


def gated_by(inner: Objective, **fields: Any) -> DriftGate:
    return DriftGate(**({"objective": inner, "tau": 2.0, "block": 2} | fields))
