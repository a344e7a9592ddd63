"""Attention for the rounds of the engine: by lengths on a GPU (varlen.py), masked on a CPU.

transformers packs the query heads that share a key head into rows of one product, because the
kernels of a GPU take no mask with grouped heads. A CPU's kernel does, and with two rows per product
it is slower on two threads than on one; with one row per head it is twice as fast as on one. Where
rows differ much in length, each is attended by itself over what it holds.

Shapes: B rows, N query heads, G key heads, L tokens, S slots, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward as sdpa
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tandem.rollout import varlen
from tandem.rollout.protocol import SpeakerLike
from tandem.rollout.varlen import Kernel

NAME = "tandem_rounds"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """As transformers' own `sdpa`, [B, N, L, D], [B, G, S, D] → [B, L, N, D]; one masked token per
    row is attended without packing, and lengths [B, 1, 1, 1] int32 in place of a mask are rows one
    by one. What else a model may ask for is left to `sdpa`."""
    plain = softcap is None and position_bias is None
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        if plain:
            return row_by_row(query, key, value, attention_mask.flatten().tolist(), scaling), None
        attention_mask = varlen.masked(attention_mask, fed=query.shape[2], slots=key.shape[2])
    if attention_mask is None or query.shape[2] != 1 or not plain:
        return sdpa(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            softcap=softcap,
            position_bias=position_bias,
            **rest,
        )
    # One True for all: every row attends to every slot, which needs no mask.
    mask = None if attention_mask.numel() == 1 else attention_mask
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2), None


def row_by_row(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scaling: float | None
) -> Tensor:
    """[B, N, L, D] over [B, G, S, D] → [B, L, N, D]: token j of L sees the first
    lengths − L + 1 + j slots of its row, and nothing reads the others."""
    rows, heads, fed, size = query.shape
    output = query.new_empty(rows, fed, heads, size)
    for row, length in enumerate(lengths):
        here = slice(row, row + 1)
        output[here] = scaled_dot_product_attention(
            query[here],
            key[here, :, :length],
            value[here, :, :length],
            attn_mask=None if fed == 1 else _causal(fed, length),
            scale=scaling,
            enable_gqa=True,
        ).transpose(1, 2)
    return output


@lru_cache(maxsize=512)
def _causal(fed: int, length: int) -> Tensor:
    """[L, S]: the last token sees everything, the one before it one slot less. Kept, because every
    layer asks for the same."""
    with torch.inference_mode(False):
        return torch.ones(fed, length, dtype=torch.bool).tril(length - fed)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
AttentionMaskInterface.register(varlen.NAME, sdpa_mask)


@contextmanager
def attending(
    speakers: Iterable[SpeakerLike],
    kernel_for: Callable[[SpeakerLike], Kernel | None] = varlen.kernel_for,
) -> Iterator[None]:
    """Until the end of the block, speakers that run `sdpa` attend by lengths where there is a
    kernel for it, and with `attend` on a CPU."""
    changed: list[SpeakerLike] = []
    try:
        for speaker in speakers:
            if speaker.config._attn_implementation != "sdpa":
                continue
            kernel = kernel_for(speaker)
            if kernel is not None:
                AttentionInterface.register(varlen.NAME, varlen.interface(kernel, sdpa))
                speaker.config._attn_implementation = varlen.NAME
            elif speaker.device.type == "cpu":
                speaker.config._attn_implementation = NAME
            else:
                continue
            changed.append(speaker)
        yield
    finally:
        for speaker in changed:
            speaker.config._attn_implementation = "sdpa"
