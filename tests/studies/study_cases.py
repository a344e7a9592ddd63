"""A small study of the embedded pair as plain data, to be changed by each test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tandem.studies.grid import Study, open_study
from tandem.training.own_recipes import recipe_path

SMALL: dict[str, Any] = {
    "name": "small",
    "base": "arithmetic",
    "set": {
        "training.steps": 4,
        "optimizer.warmup_steps": 0,
        "rollout": {"prompts_per_step": 4},
        "evaluation": {"every": 2, "problems": 4, "samples": 1},
        "task": {"train_size": 200, "validation_size": 20, "test_size": 20},
    },
    "hypotheses": [{"text": "blending helps", "row": "trb", "than": "opd"}],
    "baseline": "opd",
    "rows": {
        "opd": {
            "title": "vanilla OPD",
            "set": {"behaviour": "student"},
            "sweep": {"optimizer.lr": [1.0e-3, 5.0e-4]},
        },
        "trb": {
            "set": {"behaviour.warmup_steps": 2},
            "sweep": {"behaviour.budget": [0.01, 0.1]},
        },
    },
    "seeds": {"tuning": [7, 8], "reporting": [0, 1]},
    "judging": {"problems": 6},
}

Change = Callable[[dict[str, Any]], Any]


def write_study(folder: Path, change: Change | None = None) -> Path:
    """SMALL, changed, as a file in `folder`."""
    data = yaml.safe_load(yaml.safe_dump(SMALL))
    if change is not None:
        change(data)
    folder.mkdir(exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def small_study(
    folder: Path, change: Change | None = None, *, overrides: Sequence[str] = ()
) -> Study:
    """SMALL, changed, as the command reads it; its runs go into `folder`/runs."""
    path = write_study(folder, change)
    return open_study(path, overrides, find=recipe_path, runs=folder / "runs")
