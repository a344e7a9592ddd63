"""A numerical check that a model of an untested type can be served."""

from __future__ import annotations

import torch
from transformers import DynamicCache, PreTrainedModel

from tandem.models.heads import head_form, output_layer

LENGTH = 6


@torch.no_grad()
def check_cached_forward(model: PreTrainedModel, *, name: str) -> None:
    """Compare the model's own logits with those made the way the rollout engine makes them: body
    and head apart, explicit positions, a boolean mask, and a cache with a slot of rubbish in it.

    Raises ValueError where they differ: the head does more than its linear layer, positions are
    taken from elsewhere, or the cache is no key-value cache.
    """
    rows, device = output_layer(model).weight.shape[0], model.device
    ids = (torch.arange(1, LENGTH + 1, device=device) * 7919 % rows)[None]
    expected = model(input_ids=ids, use_cache=False).logits.float()
    # Whatever an unknown forward makes of our arguments, the answer is that it cannot be served.
    try:
        found = _as_served(model, ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(_sentence(model, name, str(error).splitlines()[0])) from error
    scale = expected.abs().max()
    error = (found - expected).abs().max()
    tolerance = 3e-2 if model.dtype == torch.bfloat16 else 1e-3
    if not bool(error <= tolerance * scale):
        raise ValueError(_sentence(model, name, f"logits differ by {float(error):.3g}"))


def _as_served(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits [1, L, R]: half of the tokens, a slot of rubbish, then the rest with it masked."""
    half, device = LENGTH // 2, ids.device
    positions = torch.arange(LENGTH, device=device)[None]
    cache = DynamicCache(config=model.config)
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=device).tril()
    eager = model.config._attn_implementation == "eager"

    def body(ids: torch.Tensor, at: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        bias = torch.zeros_like(mask, dtype=model.dtype)
        added = bias.masked_fill(~mask, torch.finfo(model.dtype).min)
        return model.base_model(
            input_ids=ids,
            position_ids=at,
            attention_mask=added if eager else mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    first = body(ids[:, :half], positions[:, :half], causal[None, None, :half, :half])
    rubbish = torch.ones(1, 1, 1, half + 1, dtype=torch.bool, device=device)
    body(ids[:, :1], positions[:, half : half + 1], rubbish)
    hole = torch.zeros(half, 1, dtype=torch.bool, device=device)
    rest = torch.cat([causal[half:, :half], hole, causal[half:, half:]], 1)
    second = body(ids[:, half:], positions[:, half:], rest[None, None])
    raw = output_layer(model)(torch.cat([first, second], 1))
    return head_form(model.config)(raw.float())


def _sentence(model: PreTrainedModel, name: str, what: str) -> str:
    return (
        f"model {name!r} ({model.config.model_type}) does not give its own logits when it is "
        f"served with a masked cache ({what}): use a decoder such as Qwen3 or Llama"
    )
