"""The pairs of benchmarks/engine.py, and the work they are given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tandem.models.loading import EMBEDDED
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment
from tandem.training.pretrain import keep_layers
from tandem.types import Request

RANDOM_ROWS = 151_936


@dataclass(frozen=True)
class Size:
    """One pair and its load. prompt, new: tokens (the longest, where ragged)."""

    name: str
    slots: int
    prompt: int
    new: int
    repeats: int


class Endless(Speaker):
    """A speaker that never draws the end, so that lengths are the workload's."""

    def shared(self, logits: Tensor) -> Tensor:
        found = super().shared(logits)
        found[..., self.end_id] = -torch.inf
        return found


@dataclass(frozen=True)
class Pair:
    """Both models as transformers has them, and as the engine sees them."""

    student: Any
    teacher: Any
    vocabulary: int
    end: int

    def speakers(self) -> tuple[Speaker, Speaker]:
        alignment = Alignment(
            size=self.vocabulary,
            end_id=self.end,
            student_end_ids=(self.end,),
            teacher_end_ids=(self.end,),
        )
        student, teacher = (
            Endless(model, own_end_ids=(self.end,), alignment=alignment)
            for model in (self.student, self.teacher)
        )
        return student, teacher


def build(name: str, data: Path | None) -> Pair:
    """The pair of that name, in fp32. data: where real models lie (`stories`)."""
    if name == "embedded":
        teacher, student = (
            AutoModelForCausalLM.from_pretrained(EMBEDDED[f"embedded:{who}"], dtype="float32")
            for who in ("teacher", "student")
        )
        end = 1
    elif name == "stories":
        assert data is not None
        folder = data / "models" / "stories260K" / "hf"
        teacher = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        student, end = keep_layers(teacher, (0, 2, 4)), 2
    else:
        # 42 M and 202 M parameters.
        student, teacher, end = random_model(0, 256, 4), random_model(1, 1024, 16), 0
    for model in (student, teacher):
        model.eval().requires_grad_(False)
    vocabulary = min(model.config.vocab_size for model in (student, teacher))
    return Pair(student, teacher, vocabulary, end)


def random_model(seed: int, hidden: int, heads: int) -> Any:
    """Four layers and a tied head whose logits have a standard deviation of about 2.5."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=RANDOM_ROWS,
        hidden_size=hidden,
        intermediate_size=int(hidden * 2.75),
        num_hidden_layers=4,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=hidden // heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=2.5 / math.sqrt(hidden))
        # With a tied head a random model says its last token again, nearly surely; signs on the
        # final norm take that away, and nothing else.
        model.model.norm.weight.copy_(torch.randint(0, 2, (hidden,)) * 2.0 - 1.0)
    return model


def workload(pair: Pair, size: Size, *, ragged: bool, seed: int) -> list[Request]:
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        drawn = torch.randint(0, pair.vocabulary - 1, (count,), generator=generator)
        return tuple((drawn + (drawn >= pair.end)).tolist())  # any but the end

    def length(longest: int) -> int:
        """Skewed towards short: half of the responses are below a third of the longest."""
        u = float(torch.rand((), generator=generator))
        return max(1, round(longest * (0.1 + 0.9 * u**2))) if ragged else longest

    requests = []
    for i in range(size.slots * (4 if ragged else 1)):
        prompt = ids(length(size.prompt))
        requests.append(
            Request(id=i, student_ids=prompt, teacher_ids=prompt, max_new_tokens=length(size.new))
        )
    return requests


def new_tokens(request: Request, size: Size) -> int:
    return size.new if request.max_new_tokens is None else request.max_new_tokens
