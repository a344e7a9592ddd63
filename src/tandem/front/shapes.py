"""Sizes of a model before any weight is loaded: counted on the meta device from its config."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from tandem.models.loading import locate
from tandem.rollout.budget import cache_values


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides how much memory a model needs.

    parameters: their number. cache_values: numbers in the key-value cache per token.
    source: where the sizes come from, for the reader of an estimate.
    """

    parameters: int
    cache_values: int
    layers: int
    hidden: int
    intermediate: int
    rows: int
    source: str


def shape_of(config: PretrainedConfig, *, source: str) -> Shape:
    """The shape of the causal language model that `config` describes; allocates nothing."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    fields = config.to_dict()
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        cache_values=cache_values(config),
        layers=fields["num_hidden_layers"],
        hidden=fields["hidden_size"],
        intermediate=fields["intermediate_size"],
        rows=fields["vocab_size"],
        source=source,
    )


def model_shape(path: str) -> Shape:
    """The shape of a model by folder, hub id or embedded name, without its weights.

    The models of our recipes are looked up in published tables, so that a dry run asks no network.
    Raises ValueError where the sizes are not to be had.
    """
    published = _published(path)
    if published is not None:
        return shape_of(published, source="published sizes")
    try:
        config = AutoConfig.from_pretrained(locate(path))
    except OSError as error:
        raise ValueError(
            f"the sizes of model {path!r} are not to be had: it is no folder here and the hub "
            "did not give its config; check the name and the network"
        ) from error
    return shape_of(config, source="its config.json")


def _published(hub_id: str) -> PretrainedConfig | None:
    if hub_id in _QWEN2:
        layers, hidden, intermediate, heads, kv_heads, rows = _QWEN2[hub_id]
        return Qwen2Config(
            num_hidden_layers=layers,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=rows,
            tie_word_embeddings=False,
        )
    name = hub_id.removeprefix("Qwen/").removesuffix("-Base")
    if name not in _QWEN3:
        return None
    layers, hidden, intermediate, heads, tied = _QWEN3[name]
    return Qwen3Config(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151_936,
        tie_word_embeddings=tied,
    )


# The Qwen3 technical report (arXiv 2505.09388, table 1) and the config.json of each release:
# layers, hidden, intermediate, query heads, embeddings tied.
_QWEN3 = {
    "Qwen3-0.6B": (28, 1024, 3072, 16, True),
    "Qwen3-1.7B": (28, 2048, 6144, 16, True),
    "Qwen3-4B": (36, 2560, 9728, 32, True),
    "Qwen3-8B": (36, 4096, 12_288, 32, False),
}

# The config.json of each release, which are Qwen2.5 models with embeddings of their own: layers,
# hidden, intermediate, query heads, key-value heads, rows of the vocabulary.
_QWEN2 = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (28, 1536, 8960, 12, 2, 151_936),
    "Skywork/Skywork-OR1-Math-7B": (28, 3584, 18_944, 28, 4, 152_064),
}
