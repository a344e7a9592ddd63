"""What the loop tells whoever watches it (the live view, a notebook, a test).

A listener is any callable that takes one event. Events are facts already true when they arrive;
a listener cannot change the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PhaseName = Literal["rehearse", "roll out", "score", "update", "evaluate", "save"]


@dataclass(frozen=True, slots=True)
class Started:
    """The run begins, or goes on, after `step` of `total_steps` optimiser steps."""

    folder: Path
    step: int
    total_steps: int


@dataclass(frozen=True, slots=True)
class Phase:
    """Within step `step` (counted from 1; 0 before training), `done` of `total` units of a phase
    are finished: responses of a roll-out or an evaluation, micro-batches of an update.

    tokens: written so far in a roll-out, whose responses all end late; None elsewhere."""

    step: int
    name: PhaseName
    done: int
    total: int
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class StepDone:
    """Step `step` of `total_steps` is finished; its line of metrics.jsonl, without "step"."""

    step: int
    total_steps: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation after `step` optimiser steps; its `eval/...` keys."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint (or, at the end, the final model) lies at `path`."""

    step: int
    path: Path


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the person watching: a warning of the doctor, the rehearsal's arithmetic."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The loop has ended after `step` steps: all of them, or fewer when it was `interrupted`."""

    step: int
    interrupted: bool


Event = Started | Phase | StepDone | Evaluated | Saved | Note | Finished
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener of those who do not watch."""
    del event
