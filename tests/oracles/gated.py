"""Slow truths about selections and gates: loops over tokens in Python floats.

z: logits, q: teacher log-probs over the vocabulary, mass: how much each token v counts, mu(v) times
its weight. Gradients are in z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from oracles.objectives import Result, Row, log_softmax, score
from oracles.trust_region import forward_kl_on, largest


def entropy(logp: Row) -> float:
    return -math.fsum(math.exp(x) * x for x in logp if x > -math.inf)


def plus(a: Result, b: Result, times: float = 1.0) -> Result:
    return a[0] + times * b[0], [x + times * y for x, y in zip(a[1], b[1], strict=True)]


# ------------------------------------------------------------------ per prefix


def forward_kl_where_unsure(z: Row, q: Row, *, threshold: float, top_k: int) -> Result:
    """1[H(q) > threshold] Σ_K q (log q − log p)."""
    if not entropy(q) > threshold:
        return 0.0, [0.0] * len(z)
    return forward_kl_on(z, q, largest(q, top_k))


def rewarded(z: Row, mass: Row, reward: Sequence[float], advantage: Row | None = None) -> Result:
    """−Σ_v mass_v R_v, and −Σ_v mass_v A_v ∇log p_v with A = R unless given."""
    terms = {v: -mass[v] * (reward if advantage is None else advantage)[v] for v in range(len(z))}
    return -math.fsum(m * r for m, r in zip(mass, reward, strict=True)), score(z, terms)


def relaxed(z: Row, q: Row, mass: Row, *, floor: float) -> Result:
    log_p = log_softmax(z)
    return rewarded(z, mass, [max(q[v] - log_p[v], floor) for v in range(len(z))])


def asymmetric(
    z: Row, q: Row, mass: Row, *, threshold: float, top_k: int, baseline: bool = False
) -> Result:
    log_p = log_softmax(z)
    above = [math.exp(q[v]) - math.exp(log_p[v]) > threshold for v in range(len(z))]
    reward = [q[v] - log_p[v] if above[v] else 0.0 for v in range(len(z))]
    mean = math.fsum(math.exp(log_p[v]) * reward[v] for v in range(len(z))) if baseline else 0.0
    policy = rewarded(z, mass, reward, [r - mean for r in reward])
    pull = math.fsum(m for m, up in zip(mass, above, strict=True) if not up)
    return plus(policy, forward_kl_on(z, q, largest(q, top_k)), pull)


# ------------------------------------------------------------------ whole steps


def top_share(values: Row, fraction: float) -> list[bool]:
    """Which are at least the ⌈fraction·N⌉-th largest."""
    count = math.ceil(fraction * len(values) - 1e-9)
    threshold = sorted(values, reverse=True)[count - 1]
    return [x >= threshold for x in values]


def mean_over_each_response(sequence: Sequence[int], trained: Sequence[bool]) -> list[float]:
    """1/(trained tokens of the response) for each trained token."""
    lengths: dict[int, int] = {}
    for s, counts in zip(sequence, trained, strict=True):
        lengths[s] = lengths.get(s, 0) + counts
    return [1.0 / lengths[s] if t else 0.0 for s, t in zip(sequence, trained, strict=True)]


def drift_gates(
    rollout_logp: Row,
    current_logp: Row,
    sequence: Sequence[int],
    position: Sequence[int],
    trained: Sequence[bool],
    *,
    tau: float,
    block: int,
) -> list[float]:
    """exp(−τ |mean over the block|) / its mean over the trained tokens; 0 for the others."""
    blocks: dict[tuple[int, int], list[float]] = {}
    places = [(s, t // block) for s, t in zip(sequence, position, strict=True)]
    for i, place in enumerate(places):
        if trained[i]:
            blocks.setdefault(place, []).append(rollout_logp[i] - current_logp[i])
    gates = [
        math.exp(-tau * abs(math.fsum(blocks[place]) / len(blocks[place]))) if counts else 0.0
        for place, counts in zip(places, trained, strict=True)
    ]
    mean = math.fsum(gates) / sum(trained)
    return [gate / mean for gate in gates]
