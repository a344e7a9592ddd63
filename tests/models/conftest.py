"""Small real models and tokenizers for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    HyperCLOVAXConfig,
    HyperCLOVAXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tandem.models.loading import LoadedModel
from tandem.models.settings import ModelSettings

SIZES = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 4}),
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {"head_dim": 4, "final_logit_softcapping": 0.5, "sliding_window": 32},
    ),
    "cohere": (CohereConfig, CohereForCausalLM, {"logit_scale": 0.25}),
    "granite": (GraniteConfig, GraniteForCausalLM, {"logits_scaling": 8.0}),
    "hyperclovax": (HyperCLOVAXConfig, HyperCLOVAXForCausalLM, {"logits_scaling": 0.3}),
    "phi": (PhiConfig, PhiForCausalLM, {"num_key_value_heads": 4}),
}


@pytest.fixture(scope="session")
def make_model() -> Callable[..., PreTrainedModel]:
    """A random model of a family, the same for the same arguments, with weights large enough
    that scaling and capping of the logits show."""

    def make(family: str = "qwen3", *, dtype: torch.dtype = torch.float32, **over: Any):
        configuration, kind, own = FAMILIES[family]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = kind(configuration(**{**SIZES, **own, **over}))
            for parameter in model.parameters():
                parameter.data.normal_(std=0.3)
        return model.to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """A tokenizer of whole words whose ids are their places in the list."""

    def make(words: Sequence[str]) -> PreTrainedTokenizerFast:
        backend = Tokenizer(
            WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0])
        )
        backend.pre_tokenizer = WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=backend)

    return make


@pytest.fixture(scope="session")
def make_loaded(make_model: Any, make_tokenizer: Any) -> Callable[..., LoadedModel]:
    """A loaded model of given head rows, words and end ids."""

    def make(*, rows: int, words: Sequence[str], end_ids: tuple[int, ...], path: str = "tiny"):
        model = make_model(vocab_size=rows)
        return LoadedModel(model, make_tokenizer(words), end_ids, ModelSettings(path=path))

    return make
