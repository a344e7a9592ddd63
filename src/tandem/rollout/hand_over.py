"""Two engines in turns: the native one while a law needs it, another where the student is alone.

Trust-region warm-ups hand over by themselves: their law is the student's once the budget is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tandem.behaviours.base import Behaviour
from tandem.rollout.protocol import Progress, RolloutEngine
from tandem.rollout.tally import Tally
from tandem.types import Clock, Request, Rollout, Sampling, SignalSpec


class HandOver:
    """`alone` makes the engine for plain student roll-outs, when the first of them is due."""

    def __init__(self, native: RolloutEngine, alone: Callable[[], RolloutEngine]) -> None:
        self._native, self._make = native, alone
        self._alone: RolloutEngine | None = None

    def generate(
        self,
        requests: Sequence[Request],
        *,
        behaviour: Behaviour,
        clock: Clock,
        sampling: Sampling,
        seed: int,
        record: SignalSpec,
        policy_version: int = 0,
        on_progress: Progress | None = None,
        tally: Tally | None = None,
    ) -> list[Rollout]:
        """By the engine whose turn it is; all requests of a call by the same one."""
        return self._for(requests, behaviour, clock).generate(
            requests,
            behaviour=behaviour,
            clock=clock,
            sampling=sampling,
            seed=seed,
            record=record,
            policy_version=policy_version,
            on_progress=on_progress,
            tally=tally,
        )

    def _for(
        self, requests: Sequence[Request], behaviour: Behaviour, clock: Clock
    ) -> RolloutEngine:
        if not behaviour.is_student(clock) or any(request.forced_ids for request in requests):
            return self._native
        if self._alone is None:
            self._alone = self._make()
        return self._alone

    def refresh(self) -> None:
        """Tell both; one that is not made yet will read the weights when it is."""
        self._native.refresh()
        if self._alone is not None:
            self._alone.refresh()

    def close(self) -> None:
        """Close both."""
        self._native.close()
        if self._alone is not None:
            self._alone.close()
