"""A tiny random pair with everything that can go wrong: heads of different sizes, a base student
and a chat teacher that end with different ids, prompts of different lengths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from tandem.behaviours import Behaviour, Student
from tandem.models.character import END_ID, character_tokenizer
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment
from tandem.objectives import Objective
from tandem.rollout.engine import Engine
from tandem.tasks.arithmetic import ALPHABET, Arithmetic
from tandem.tasks.base import Prompt, Split
from tandem.training.step import StepModule, recorded
from tandem.types import Clock, Request, Rollout, Sampling

CLOCK = Clock(step=0, total_steps=4)
# 38 shared ids; the student ends with 1, the teacher with 2 or 5.
ALIGNMENT = Alignment(size=38, end_id=1, student_end_ids=(1,), teacher_end_ids=(2, 5))


def tiny_model(
    seed: int, *, rows: int, layers: int = 2, tied: bool = False, dtype: torch.dtype = torch.float32
) -> Qwen3ForCausalLM:
    """A random Qwen3 whose logits are spread enough for its laws to differ from uniform."""
    config = Qwen3Config(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    nn.Module.to(model, dtype)
    return model.eval()


def tiny_pair(
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    teacher_dtype: torch.dtype | None = None,
) -> tuple[Speaker, Speaker]:
    student = tiny_model(1, rows=40, tied=tied, dtype=dtype)
    teacher = tiny_model(2, rows=44, dtype=teacher_dtype or dtype).requires_grad_(False)
    return (
        Speaker(student, own_end_ids=ALIGNMENT.student_end_ids, alignment=ALIGNMENT),
        Speaker(teacher, own_end_ids=ALIGNMENT.teacher_end_ids, alignment=ALIGNMENT),
    )


def requests(count: int) -> list[Request]:
    """Prompts of different lengths, and different for the two models."""
    return [
        Request(
            id=i,
            student_ids=tuple(6 + (3 * i + j) % 30 for j in range(2 + i % 4)),
            teacher_ids=tuple(6 + (5 * i + j) % 30 for j in range(3 + i % 3)),
        )
        for i in range(count)
    ]


def roll_out(
    student: Speaker,
    teacher: Speaker,
    objective: Objective,
    *,
    count: int = 6,
    behaviour: Behaviour | None = None,
    new_tokens: int = 9,
) -> list[Rollout]:
    """Real rollouts, with what `objective` wants recorded."""
    return Engine(student, {"teacher": teacher}, slots=4).generate(
        requests(count),
        behaviour=behaviour or Student(),
        clock=CLOCK,
        sampling=Sampling(max_new_tokens=new_tokens),
        seed=7,
        record=recorded(objective),
    )


def step_module(student: Speaker, teacher: Speaker, *, chunk_bytes: int = 4 * 40 * 5) -> StepModule:
    """Chunks of five tokens by default, so that every test crosses their borders."""
    return StepModule(student=student, teachers={"teacher": teacher}, chunk_bytes=chunk_bytes)


def save_pair(folder: Path) -> None:
    """A tiny pair that speaks the arithmetic alphabet, as folders `student` and `teacher`."""
    tokenizer = character_tokenizer(ALPHABET)
    for name, seed, rows in (("student", 1, 16), ("teacher", 2, 20)):
        model = tiny_model(seed, rows=rows)
        assert model.generation_config is not None
        model.generation_config.eos_token_id = END_ID
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


class Sums(Arithmetic):
    """Every other problem is of domain b; each comes with a wrong answer to learn."""

    kind: Literal["sums"] = "sums"  # pyright: ignore[reportIncompatibleVariableOverride]
    train_size: int = 200
    validation_size: int = 20
    test_size: int = 20
    completion: str = "+7"

    def prompts(self, split: Split) -> list[Prompt]:
        found = super().prompts(split)
        return [
            replace(p, domain="ab"[i % 2], completion=self.completion) for i, p in enumerate(found)
        ]


def tiny_recipe(pair: Path) -> dict[str, Any]:
    """Six steps that blend for four; everything a recipe must say and little more."""
    return {
        "name": "tiny",
        "threads": 1,
        "device": "cpu",
        "student": {"path": str(pair / "student")},
        "teacher": {"path": str(pair / "teacher")},
        "task": {"kind": "arithmetic", "train_size": 200, "validation_size": 20, "test_size": 20},
        "behaviour": {"kind": "trust_region_blend", "budget": 0.05, "warmup_steps": 4},
        "objective": {"kind": "reverse_kl", "top_k": 4},
        "rollout": {
            "prompts_per_step": 4,
            "samples_per_prompt": 2,
            "max_prompt_tokens": 12,
            "max_new_tokens": 12,
            "slots": 6,
            "block": 3,
            "truncated": "keep",
        },
        "optimizer": {"lr": 0.01, "warmup_steps": 2},
        "training": {"steps": 6, "save_every": 3, "tokens_per_micro_batch": 60},
        "evaluation": {"every": 3, "problems": 8},
    }
