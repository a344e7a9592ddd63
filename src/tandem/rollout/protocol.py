"""What an engine is to its callers, and what it asks of a model. `tandem.models.speaker.Speaker`
fits without knowing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from tandem.behaviours.base import Behaviour
from tandem.rollout.tally import Tally
from tandem.types import Clock, Request, Rollout, Sampling, SignalSpec

Progress = Callable[[int, int], None]


class RolloutEngine(Protocol):
    """Whatever makes responses: the native engine, vLLM, or the two in turns."""

    def generate(
        self,
        requests: Sequence[Request],
        *,
        behaviour: Behaviour,
        clock: Clock,
        sampling: Sampling,
        seed: int,
        record: SignalSpec,
        policy_version: int = 0,
        on_progress: Progress | None = None,
        tally: Tally | None = None,
    ) -> list[Rollout]:
        """One rollout per request, in their order: see `tandem.rollout.engine.Engine.generate`."""
        ...

    def refresh(self) -> None:
        """The student's weights have changed."""
        ...

    def close(self) -> None:
        """Give back what is held; the engine is not used again."""
        ...


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


class StudentLike(SpeakerLike, Protocol):
    """A student that an engine of another library can speak for: its weights and its law."""

    @property
    def model(self) -> PreTrainedModel: ...

    def shared(self, logits: Tensor) -> Tensor:
        """[..., R] → [..., V]: canonical logits of what the model's own forward returns."""
        ...
