"""A run of two tiny models and a task of three prompts, built as a user's code would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tandem.behaviours import TrustRegionBlend
from tandem.models.character import character_tokenizer
from tandem.models.loading import LoadedModel
from tandem.models.settings import ModelSettings
from tandem.objectives import ReverseKL
from tandem.tasks.base import Grade, Prompt, Split, Task
from tandem.training.config import (
    OptimizerSettings,
    RolloutSettings,
    RunConfig,
    TrainingSettings,
)


class Echo(Task):
    """Repeat what was said."""

    kind: Literal["echo"] = "echo"
    texts: tuple[str, ...] = ("ab", "abc", "abcd")

    def prompts(self, split: Split) -> list[Prompt]:
        del split
        return [
            Prompt(id=text, messages=({"role": "user", "content": text},), answer=text)
            for text in self.texts
        ]

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        return Grade(correct=completion == prompt.answer, answered=bool(completion))


@pytest.fixture
def config() -> RunConfig:
    return RunConfig(
        name="tiny",
        student=ModelSettings(path="student"),
        teacher=ModelSettings(path="teacher"),
        task=Echo(),
        behaviour=TrustRegionBlend(budget=0.1, warmup_steps=4),
        objective=ReverseKL(),
        rollout=RolloutSettings(
            prompts_per_step=2,
            samples_per_prompt=3,
            max_prompt_tokens=8,
            max_new_tokens=16,
            slots=4,
            truncated="keep",
        ),
        optimizer=OptimizerSettings(lr=1e-3),
        training=TrainingSettings(steps=10, tokens_per_micro_batch=64, head_chunk_bytes=2**16),
    )


@pytest.fixture
def loaded() -> Callable[..., LoadedModel]:
    """A random model over a character alphabet; equal arguments give equal weights."""

    def make(
        path: str,
        *,
        seed: int = 0,
        alphabet: str = "abcd",
        rows: int = 8,
        dtype: torch.dtype = torch.float32,
        chat_template: str | None = None,
        **settings: Any,
    ) -> LoadedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Qwen3ForCausalLM(
                Qwen3Config(
                    vocab_size=rows,
                    hidden_size=8,
                    intermediate_size=8,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    num_key_value_heads=1,
                    head_dim=4,
                    max_position_embeddings=32,
                    tie_word_embeddings=True,
                )
            )
        tokenizer = character_tokenizer(alphabet)
        tokenizer.chat_template = chat_template
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        return LoadedModel(model.eval(), tokenizer, (1,), ModelSettings(path=path, **settings))

    return make
