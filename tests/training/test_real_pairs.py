"""The trainer on real models, a real tokenizer and real prompts. Needs TANDEM_TEST_DATA.

TANDEM_TEST_DATA=... python -m pytest -m slow tests/training/test_real_pairs.py -s
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tandem.run import train
from tandem.training.config import config_from_dict
from tandem.training.events import Event, StepDone
from tandem.training.pretrain import keep_layers

pytestmark = [pytest.mark.slow, pytest.mark.data]


def write_openings(path: Path) -> None:
    """Beginnings of stories, one JSON object per line; there is nothing to grade in them."""
    names = ("Lily", "Tom", "Ben", "Mia", "Sam", "Anna", "Tim", "Sue", "Max", "Jack")
    starts = (
        "Once upon a time, there was a child named {}.",
        "One day, {} went to the park.",
        "{} had a big red ball.",
        "There was a little dog named {}.",
        "{} and Mom were in the kitchen.",
        "It was a sunny day and {} was happy.",
        "{} loved to play with toys.",
        "One morning, {} found a",
    )
    with path.open("w") as file:
        for start, name in product(starts, names):
            file.write(json.dumps({"problem": start.format(name), "answer": "0"}) + "\n")


def stories_recipe(teacher: Path, student: Path, openings: Path) -> dict[str, Any]:
    return {
        "name": "stories",
        "threads": 1,
        "device": "cpu",
        "student": {"path": str(student)},
        "teacher": {"path": str(teacher)},
        "task": {"kind": "math", "train": str(openings)},
        "behaviour": {"kind": "student"},
        "objective": {"kind": "reverse_kl", "support": "full"},
        "rollout": {
            "prompts_per_step": 32,
            "samples_per_prompt": 1,
            "max_prompt_tokens": 48,
            "max_new_tokens": 96,
            "slots": 32,
            "truncated": "keep",
        },
        "optimizer": {"lr": 2e-3, "warmup_steps": 5, "schedule": "cosine"},
        "training": {"steps": 150, "head_chunk_bytes": 2**23},
    }


def test_reverse_kl_of_a_pruned_storyteller_falls_below_eight_tenths_within_150_steps(
    test_data: Path, tmp_path: Path
) -> None:
    teacher = test_data / "models" / "stories260K" / "hf"
    student = tmp_path / "student"
    keep_layers(AutoModelForCausalLM.from_pretrained(teacher), (0, 2, 4)).save_pretrained(student)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(student)
    write_openings(tmp_path / "openings.jsonl")
    course: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepDone):
            course.append(event.metrics["train/reverse_kl"])

    config = config_from_dict(stories_recipe(teacher, student, tmp_path / "openings.jsonl"))
    train(config, runs=tmp_path / "runs", listener=listen)
    shown = ", ".join(f"{step + 1}: {course[step]:.3f}" for step in (0, 24, 49, 99, 149))
    print(f"\nreverse KL on the student's own samples, nats per token, by step: {shown}")
    assert course[0] > 2.5, "the pruned student is far from its teacher"
    assert sum(course[-10:]) / 10 < 0.8


def test_three_steps_with_the_real_qwen3_vocabulary_stay_under_8_gib(
    test_data: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("qwen_memory.py")
    done = subprocess.run(
        [sys.executable, str(script), str(test_data), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"\npeak {found['peak_gib']:.2f} GiB of the whole process; weights and AdamW of the "
        f"student alone {found['weights_and_optimiser_gib']:.2f} GiB"
    )
    assert found["steps"] == 3
    assert found["peak_gib"] < 8.0
    # Fully random models agree on almost nothing, and the end ids of neither are another token.
    assert found["metrics"]["rollout/teacher_entropy"] > 11.0
