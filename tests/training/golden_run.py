"""Ten small steps of the embedded pair: the numbers that a refactor must not move.

    python tests/training/golden_run.py    # writes tests/golden/training_ten_steps.json anew

To be run again, and the change explained, when the embedded pair or the mathematics changes.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from tandem.models.loading import EMBEDDED
from tandem.run import train
from tandem.training.config import config_from_dict
from tandem.training.events import Event, StepDone

GOLDEN = Path(__file__).parents[1] / "golden" / "training_ten_steps.json"
KEYS = (
    "train/loss",
    "train/reverse_kl",
    "train/grad_norm",
    "train/lr",
    "train/student_mass",
    "rollout/exponent",
    "rollout/kl_spent",
    "rollout/length",
    "rollout/truncated",
    "rollout/teacher_entropy",
)
# Five blended steps and five of the student's own; several micro-batches and chunks in each.
RECIPE: dict[str, Any] = {
    "name": "golden",
    "threads": 1,
    "device": "cpu",
    "student": {"path": "embedded:student"},
    "teacher": {"path": "embedded:teacher"},
    "task": {"kind": "arithmetic", "operands": 3, "digits": 2},
    "behaviour": {"kind": "trust_region_blend", "budget": 0.05, "warmup_steps": 5},
    "objective": {"kind": "reverse_kl", "top_k": 8},
    "rollout": {
        "prompts_per_step": 8,
        "samples_per_prompt": 2,
        "max_prompt_tokens": 16,
        "max_new_tokens": 32,
        "slots": 6,
        "block": 3,
        "truncated": "keep",
    },
    "optimizer": {"lr": 5e-4, "schedule": "cosine", "warmup_steps": 3},
    "training": {"steps": 10, "tokens_per_micro_batch": 128, "head_chunk_bytes": 65536},
}


def pair_digest() -> str:
    """Changes with any weight of the embedded pair."""
    digest = hashlib.sha256()
    for folder in sorted(EMBEDDED.values()):
        digest.update((folder / "model.safetensors").read_bytes())
    return digest.hexdigest()


def ten_steps(**changes: Any) -> list[dict[str, float]]:
    """The pinned keys of each step. changes: of whole sections of the recipe."""
    rows: list[dict[str, float]] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepDone):
            rows.append({key: event.metrics[key] for key in KEYS})

    with tempfile.TemporaryDirectory() as runs:
        train(config_from_dict(RECIPE | changes), runs=runs, listener=listen)
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    golden = {"pair": pair_digest(), "steps": ten_steps()}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
