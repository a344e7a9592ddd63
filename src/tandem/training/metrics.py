"""What a step says of its rollouts; every key is defined in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.behaviours.base import Behaviour
from tandem.core.reduce import MetricSums
from tandem.types import Clock, Rollout

# The behaviour's per-token statistics that are logged.
STATS = ("exponent", "kl_spent")


def rollout_sums(rollouts: Sequence[Rollout], *, behaviour: Behaviour, clock: Clock) -> MetricSums:
    """Sums over this rank's responses, or over their tokens, by logged key."""
    sums = MetricSums()
    for rollout in rollouts:
        sums.add({"rollout/length": (float(len(rollout)), 1.0)})
        sums.add({"rollout/truncated": (float(rollout.ended == "length"), 1.0)})
        for name in STATS:
            if name in rollout.stats:
                values = rollout.stats[name]
                sums.add({f"rollout/{name}": (values.double().sum(), float(len(rollout)))})
            elif behaviour.budget_at(clock) is not None and behaviour.is_student(clock):
                # Its budget used up, a trust region is the student itself: exactly 0 of both.
                sums.add({f"rollout/{name}": (0.0, float(len(rollout)))})
    return sums
