"""The student's law in vLLM's terms, and vLLM's answers in ours.

vLLM samples from a model's own softmax over all rows of its head. A logits processor turns every
batch of logits into the canonical ones: the mass of all of the student's end ids on the shared one,
and none on its aliases and on padded rows. Tokens, log-probs and top-k are then right as they come.
Shapes: B rows, R rows of the head, V shared vocabulary, T tokens of one response, K support.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tandem.rollout.protocol import StudentLike


def law_processor(student: StudentLike) -> type:
    """A logits processor class under which vLLM samples from the student's canonical law."""
    base: Any = import_module("vllm.v1.sample.logits_processor").LogitsProcessor

    class SharedVocabulary(base):
        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
            del vllm_config, device, is_pin_memory

        def apply(self, logits: Tensor) -> Tensor:
            """[B, R] → [B, R]: canonical on the shared ids, −inf beyond them."""
            size = student.vocabulary_size
            logits[:, :size] = student.shared(logits)
            logits[:, size:] = -torch.inf
            return logits

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            del batch_update

    return SharedVocabulary


def columns(flat: Any) -> tuple[Tensor, Tensor]:
    """Ids [T, K] of the K most likely tokens, and vLLM's log-prob [T] of the drawn one."""
    length = len(flat.start_indices)
    # Of each position the drawn token first, then the K likeliest, whether or not it is of them.
    ids = torch.tensor(flat.token_ids).view(length, -1)
    return ids[:, 1:], torch.tensor(flat.logprobs).view(length, -1)[:, 0].clone()


def support_within(ids_TK: Tensor, size: int) -> Tensor:
    """The support with impossible ids beyond the vocabulary replaced by impossible ones within.

    Where fewer than K ids have mass, vLLM fills up from all rows of the head.
    """
    outside = ids_TK >= size
    if not outside.any():
        return ids_TK
    filled = ids_TK.clone()
    for t in outside.any(1).nonzero()[:, 0].tolist():
        row = filled[t]
        unused = sorted(set(range(size)) - set(row.tolist()))
        row[outside[t]] = torch.tensor(unused[: int(outside[t].sum())])
    return filled
