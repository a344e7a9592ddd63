"""The legal forms of TrustRegion, and the batches of its tests and its neighbours'.

Shapes: V vocabulary, N tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tandem.contract.enumeration import World, make_world, score_once, signal_of
from tandem.core.divergences import entropy
from tandem.objectives import Objective, TokenLoss, TrustRegion
from tandem.types import Author, Clock, TeacherSignal, TokenBatch

K = 3
CLOCK = Clock(3, 20)
# What becomes of a token, with and without a gate; the fields but for `gate` in the first group.
OUTLIERS: list[dict[str, Any]] = [
    {"outlier": "forward_kl", "top_k": K},
    {"outlier": "mask"},
    {"outlier": "clip"},
    {"outlier": "clip", "positive_branch": "add"},
    {"outlier": "forward_kl", "top_k": K, "positive_branch": "add"},
]
STATIC: list[dict[str, Any]] = [
    {"gate": "none", "outlier": "mask"},
    {"gate": "none", "outlier": "clip"},
    {"gate": "none", "outlier": "clip", "positive_branch": "add"},
]
GATED: list[dict[str, Any]] = [
    fields | {"gate": gate} for fields in OUTLIERS for gate in ("sampled", "expected")
]
DRAWN = GATED + STATIC
SUMMED: list[dict[str, Any]] = [
    fields | {"gate": "expected"} | support
    for fields in OUTLIERS
    for support in ({"support": "full"}, {"support": "student_topk", "support_top_k": K})
]
EVERY_FORM = [TrustRegion(**fields) for fields in DRAWN + SUMMED]
WEIGHTS: list[dict[str, Any]] = [
    {"importance": "exact"},
    {"importance": "truncated", "importance_limit": 1.2},
    {"importance": "clipped", "importance_limit": 0.2},
]


def name(value: Any) -> str:
    """A short test id."""
    if isinstance(value, TrustRegion):
        value = value.model_dump(exclude_defaults=True)
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "default"
    return str(getattr(value, "kind", value))


def oracle_fields(objective: TrustRegion) -> dict[str, Any]:
    """The fields that decide a reward, as the oracle takes them."""
    return {
        "gate": objective.gate,
        "outlier": objective.outlier,
        "floor": objective.floor or 0.0,
        "positive": objective.positive_branch == "add",
    }


def batch(
    objective: Objective, seed: int, rows: int = 12, *, ids: Tensor | None = None
) -> tuple[World, TokenBatch, TeacherSignal]:
    """rows different prefixes with one token each, drawn uniformly, in responses of four."""
    world = make_world(seed, prefixes=rows)
    generator = torch.Generator().manual_seed(seed)
    p = torch.softmax(world.student_logits, -1)
    row = torch.arange(rows)
    if ids is None:
        ids = torch.randint(p.shape[1], (rows,), generator=generator)
    tokens = TokenBatch(
        ids=ids,
        sequence=row // 4,
        position=row % 4,
        behaviour_logp=torch.full((rows,), 1 / p.shape[1], dtype=torch.float64).log(),
        student_logp=p.log()[row, ids],
        author=torch.full((rows,), int(Author.STUDENT)),
        policy_version=torch.zeros(rows, dtype=torch.int64),
        forced=torch.zeros(rows, dtype=torch.bool),
        student_entropy=entropy(p.log()),
        gate=torch.rand(rows, generator=generator, dtype=torch.float64),
    )
    return world, tokens, signal_of(objective.needs(), world, row, ids)


def run(
    objective: Objective,
    z: Tensor,
    signal: TeacherSignal,
    tokens: TokenBatch,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, TokenLoss]:
    """Value [N], gradient [N, V] in the logits and all else of a loss; weights 1 by default."""
    weight = torch.ones(len(tokens), dtype=torch.float64) if weight is None else weight
    loss, gradient = score_once(objective, z, tokens, signal, weight, CLOCK)
    return loss.value, gradient, loss
