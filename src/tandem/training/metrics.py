"""What a step says of its rollouts; every key is defined in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.behaviours.base import Behaviour
from tandem.core.reduce import MetricSums
from tandem.types import Clock, Rollout

# What a trust region tells of each token while it has a budget.
OF_A_BUDGET = ("exponent", "kl_spent")


def rollout_sums(rollouts: Sequence[Rollout], *, behaviour: Behaviour, clock: Clock) -> MetricSums:
    """Sums over this rank's responses, or over their tokens, by logged key: every statistic of the
    behaviour as rollout/<name>."""
    sums = MetricSums()
    spent = behaviour.budget_at(clock) is not None and behaviour.is_student(clock)
    for rollout in rollouts:
        tokens = float(len(rollout))
        sums.add({"rollout/length": (tokens, 1.0)})
        sums.add({"rollout/truncated": (float(rollout.ended == "length"), 1.0)})
        for name, values in rollout.stats.items():
            sums.add({f"rollout/{name}": (values.double().sum(), tokens)})
        if spent:
            # Its budget used up, a trust region is the student itself: exactly 0 of both.
            sums.add({f"rollout/{name}": (0.0, tokens) for name in OF_A_BUDGET})
        if behaviour.gives():
            sums.add({"rollout/given": (float(rollout.given), tokens)})
            nothing_drawn = rollout.given == len(rollout)
            sums.add({"rollout/without_student": (float(nothing_drawn), 1.0)})
    return sums
