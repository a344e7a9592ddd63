"""The best model on validation problems, kept as best/ beside final/."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

Progress = Callable[[int, int], None]
Evaluate = Callable[[int, Progress], dict[str, float]]

BEST = "best"
SELECTED = "selected.json"


@dataclass(frozen=True, slots=True)
class Selected:
    """Which step best/ is of, and its pass@1 on the validation problems."""

    step: int
    score: float

    def text(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def read_selected(best: Path) -> Selected | None:
    """What the folder `best` holds; None where there is none yet."""
    path = best / SELECTED
    return Selected(**json.loads(path.read_bytes())) if path.is_file() else None


def keeping_best(
    evaluate: Evaluate, *, best: Path, save: Callable[[Selected, dict[str, float]], None]
) -> Evaluate:
    """`evaluate`, after which the model is saved wherever none before scored as much.

    Of equal ones the earliest stays. The student before training (step 0) is no result, so it is
    never selected. save: writes the model of the moment and what it is to `best`, whole or not at
    all.
    """
    found = read_selected(best)

    def evaluate_and_keep(step: int, on_progress: Progress) -> dict[str, float]:
        nonlocal found
        metrics = evaluate(step, on_progress)
        now = Selected(step, metrics["eval/pass@1"])
        # A run that was killed comes to the step of its best model again: it is saved again.
        if step > 0 and (found is None or now.score > found.score or step == found.step):
            save(now, metrics)
            found = now
        return metrics

    return evaluate_and_keep
