"""Several frozen models that take turns on one device.

Their weights never change, so the host keeps all of them and the device holds a copy of one:
leaving costs nothing, coming costs one transfer. On a CPU both are the same memory and nothing
moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


class Stage:
    """Room on `device` for one of `models` at a time; all of them must lie on the host.

    current: the name of the one that stands there, which stays until another is wanted. copy: how a
    host tensor comes to the device.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        *,
        device: torch.device,
        copy: Callable[[Tensor, torch.device], Tensor] = _copied,
    ) -> None:
        self.device = device
        self.current: str | None = None
        self._copy = copy
        # Page-locked memory is what a GPU reads at full speed.
        pin = device.type == "cuda"
        self._host: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for name, model in models.items():
            kept = chain(model.parameters(), model.buffers())
            self._host[name] = [(t, t.data.pin_memory() if pin else t.data) for t in kept]
            self._leave(name)

    def bring(self, name: str) -> None:
        """Put the model `name` on the device, after whichever stands there has left."""
        if name == self.current:
            return
        # Rollouts ask in inference mode; what they bring must serve training too.
        with torch.inference_mode(False):
            if self.current is not None:
                self._leave(self.current)
            for tensor, host in self._host[name]:
                tensor.data = self._copy(host, self.device)
        self.current = name

    def _leave(self, name: str) -> None:
        for tensor, host in self._host[name]:
            tensor.data = host


class Guest(Speaker):
    """A speaker whose model has its place on a stage, and comes there whenever it is to compute."""

    def __init__(
        self,
        model: Any,
        *,
        own_end_ids: tuple[int, ...],
        alignment: Alignment,
        stage: Stage,
        name: str,
    ) -> None:
        super().__init__(model, own_end_ids=own_end_ids, alignment=alignment)
        self._stage, self._name = stage, name

    @property
    def device(self) -> torch.device:
        """Where it computes, wherever its weights are now."""
        return self._stage.device

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        *,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        self._stage.bring(self._name)
        return super().hidden(input_ids, position_ids, mask=mask, cache=cache)

    def logits(self, hidden: Tensor) -> Tensor:
        self._stage.bring(self._name)
        return super().logits(hidden)
