"""Attention with a length per row, for the rounds of the engine on a GPU.

A masked product reads the slots of the longest row for every row, and on a GPU repeats the key
heads first. torch's kernel for sequences of any lengths reads what a row holds and no more; it
wants the heads of a token side by side ([B, S, G, D]), so that rows lie one after the other.

On a GPU this has not been run yet; on a CPU the tests put a plain product in the kernel's place.

Shapes: B rows, N query heads, G key heads, L tokens, S slots, D head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tandem.rollout.protocol import SpeakerLike

# As `torch.nn.attention.varlen.varlen_attn`.
Kernel = Callable[..., Any]
NAME = "tandem_lengths"
# What the kernel takes: heads of a multiple of 8, and no larger than this.
LARGEST_HEAD, HEAD_STEP = 256, 8


def kernel_for(speaker: SpeakerLike) -> Kernel | None:
    """torch's kernel where it can serve: on a GPU, in half precision, by a torch whose kernel is
    told how much of each row counts. None elsewhere: rounds are masked there."""
    if speaker.device.type != "cuda" or speaker.dtype not in (torch.bfloat16, torch.float16):
        return None
    fields = speaker.config.to_dict()
    size = fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]
    if size % HEAD_STEP or size > LARGEST_HEAD:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # it came with torch 2.10, and not to every build
        return None
    known = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"seqused_k", "enable_gqa"} <= known.keys() else None


def attend(
    kernel: Kernel,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    *,
    scaling: float | None,
) -> Tensor:
    """[B, N, L, D] over [B, G, S, D] → [B, L, N, D]; token j of L sees the first
    `lengths` − L + 1 + j slots of its row. key, value: views of memory [B, S, G, D].
    lengths: [B] int32, slots that count once the L tokens are written."""
    rows, heads, fed, size = query.shape
    slots = key.shape[2]
    output = kernel(
        query.transpose(1, 2).reshape(rows * fed, heads, size),
        _rows_in_line(key),
        _rows_in_line(value),
        starts(rows, fed, query.device),
        starts(rows, slots, query.device),
        fed,
        slots,
        scale=scaling,
        # No look ahead: the last token sees all that counts, the one before it one slot less.
        window_size=(-1, 0),
        enable_gqa=True,
        seqused_k=lengths,
    )
    return output.view(rows, fed, heads, size)


def masked(lengths: Tensor, *, fed: int, slots: int) -> Tensor:
    """The same as a mask [B, 1, L, S], for what the kernel does not do."""
    steps = torch.arange(1 - fed, 1, device=lengths.device)
    seen = lengths.view(-1, 1, 1, 1) + steps[:, None]
    return torch.arange(slots, device=lengths.device) < seen


def _rows_in_line(states: Tensor) -> Tensor:
    """[B, G, S, D] as [B·S, G, D], without a copy."""
    return states.transpose(1, 2).view(-1, states.shape[1], states.shape[3])


@cache
def starts(rows: int, step: int, device: torch.device) -> Tensor:
    """[B + 1] int32: where each row begins, rows `step` apart. Kept: graphs know it by where it
    lies."""
    with torch.inference_mode(False):
        return torch.arange(0, (rows + 1) * step, step, dtype=torch.int32, device=device)


def interface(kernel: Kernel, otherwise: Callable[..., tuple[Tensor, None]]) -> Any:
    """An attention function for transformers: lengths [B, 1, 1, 1] int32 in place of a mask go to
    the kernel; what it does not do, and forwards without lengths, to `otherwise`."""

    def run(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float | None = None,
        softcap: float | None = None,
        position_bias: Tensor | None = None,
        **rest: Any,
    ) -> tuple[Tensor, None]:
        if attention_mask is not None and attention_mask.dtype == torch.int32:
            if softcap is None and position_bias is None:
                lengths = attention_mask.flatten()
                return attend(kernel, query, key, value, lengths, scaling=scaling), None
            attention_mask = masked(attention_mask, fed=query.shape[2], slots=key.shape[2])
        return otherwise(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            softcap=softcap,
            position_bias=position_bias,
            **rest,
        )

    return run
