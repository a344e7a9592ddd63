"""A run folder written by hand, with every file a run leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

CONFIG = {
    "name": "hand-written",
    "student": {"path": "embedded:student"},
    "teacher": {"path": "embedded:teacher"},
    "task": {"kind": "arithmetic"},
    "behaviour": {"kind": "trust_region_blend", "budget": 0.05},
    "objective": {"kind": "reverse_kl"},
}


def metric_rows(*, steps: int = 60, speed: float = 20.0) -> list[dict[str, float | int | None]]:
    rows: list[dict[str, float | int | None]] = []
    for step in range(steps + 1):
        row: dict[str, float | int | None] = {"step": step}
        if step % 20 == 0:
            accuracy = 0.9 * (1 - math.exp(-step / speed)) + 0.02
            row |= {
                "eval/pass@1": accuracy,
                "eval/pass@1_low": max(0.0, accuracy - 0.04),
                "eval/pass@1_high": min(1.0, accuracy + 0.04),
                "eval/length": 30.0 + step / 10,
                "eval/truncated": 0.1,
            }
        if step:
            decay = math.exp(-step / speed)
            budget = max(0.0, 0.05 * (1 - step / 30))
            row |= {
                "train/loss": 1.5 * decay + 0.01,
                "train/reverse_kl": 1.4 * decay,
                "train/grad_norm": 2 * decay + 0.1,
                "rollout/exponent": min(1.0, budget * 10),
                "rollout/kl_spent": 0.95 * budget,
                "rollout/budget": budget if step <= 30 else None,
                "rollout/length": 45.0 - step / 4,
                "rollout/truncated": 0.2 * decay,
                "rollout/teacher_entropy": 0.6 * decay + 0.2,
                "time/step": 1.2,
                "time/rollout": 0.8,
                "time/train": 0.4,
            }
        rows.append(row)
    return rows


def write_run(folder: Path, *, rows: list[dict[str, float | int | None]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = [
        {"step": 60, "prompt": "12+34-5=", "completion": "46-5=<41>", "correct": True},
        {"step": 60, "prompt": "1+1+1=", "completion": "2+1=3 & more", "correct": False},
        {"step": 20, "prompt": "an older prompt", "completion": "?", "correct": False},
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    (folder / "environment.json").write_text(json.dumps({"torch": "2.13.0", "cpu": "any"}))
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "hand-written", rows=metric_rows())
