"""What the engine asks of a model. `tandem.models.speaker.Speaker` fits without knowing it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig


class SpeakerLike(Protocol):
    """A causal language model that speaks the shared vocabulary.

    Shapes: B rows, L new tokens, S cache slots, H hidden size, V shared vocabulary.
    """

    @property
    def config(self) -> PreTrainedConfig: ...

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def end_id(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        *,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """[B, L], [B, L] → [B, L, H]: the body only.

        mask: bool, broadcast to [B, 1, L, S], True = attend; None is causal attention within the
        input.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] → [..., V]: canonical fp32 logits, −inf on masked ids."""
        ...
