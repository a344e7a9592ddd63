"""Keys and values of one model in right-padded slots, a length per row.

A row's token at position i sits in slot i, so writing at `L_i + j` is all there is to it: nothing
is shifted or cropped, and what a rejected draft left behind is overwritten by the next round.

Shapes: B rows, L new tokens, S slots, P slots of a prefilled prompt, G key-value heads, D head
size. A head's slots lie side by side ([B, G, S, D]): attention reads far more than a round writes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

# The attended prefix grows in steps of this many slots, so that shapes and views change rarely.
STEP = 8


class SlotCache(Cache):
    """A transformers cache whose rows are aimed from outside before each forward.

    layers, rows, capacity: the model's layers, and the most rows and slots that will be used.
    Memory: 2 · layers · rows · capacity · G · D elements, taken at the first write.
    """

    def __init__(self, *, layers: int, rows: int, capacity: int) -> None:
        super().__init__(layers=[])
        self._shape = (layers, 2, rows, capacity)
        self._store: Tensor | None = None
        self._flat: list[tuple[Tensor, Tensor]] = []
        self._views: list[tuple[Tensor, Tensor]] = []
        self._at = torch.empty(0, dtype=torch.int64)
        self._base = torch.empty(0, dtype=torch.int64)
        self._fresh = False
        self._window = (0, 0)

    @property
    def capacity(self) -> int:
        return self._shape[3]

    def window(self, longest: int) -> int:
        """Slots attended over when the longest row holds `longest` tokens."""
        return min(-(-longest // STEP) * STEP, self.capacity)

    def aim(self, at: Tensor, *, rows: int, used: int) -> None:
        """Where the next forward writes, and what it attends over.

        at: [rows, L] int64, the position of each new token. used: slots attended over.
        """
        self._at, self._fresh = at, True
        if self._window != (rows, used):
            self._window = (rows, used)
            self._view()

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Write [B, G, L, D] keys and values where aimed; return those attended over."""
        del args, kwargs
        if self._store is None:
            self._allocate(key_states)
        if self._fresh:
            # Once a round: every layer writes at the same places, [B, G, L] of the flat store.
            rows, heads = key_states.shape[:2]
            self._at = (self._base[: rows * heads].view(rows, heads, 1) + self._at[:, None]).view(
                -1
            )
            self._fresh = False
        keys, values = self._flat[layer_idx]
        keys.index_copy_(0, self._at, key_states.reshape(-1, keys.shape[1]))
        values.index_copy_(0, self._at, value_states.reshape(-1, values.shape[1]))
        return self._views[layer_idx]

    def fill(self, rows: Tensor, prompts: Tensor) -> None:
        """Copy prefilled prompts [layers, 2, n, G, P, D] into the first P slots of n rows."""
        if self._store is None:
            self._allocate(prompts[0, 0])
        assert self._store is not None
        self._store.narrow(4, 0, prompts.shape[4]).index_copy_(2, rows, prompts)

    def move(self, source: Tensor, target: Tensor, *, used: int) -> None:
        """Copy the first `used` slots of rows `source` to rows `target` (disjoint)."""
        if self._store is not None:
            part = self._store.narrow(4, 0, used)
            part.index_copy_(2, target, part.index_select(2, source))

    def _allocate(self, states: Tensor) -> None:
        layers, two, rows, capacity = self._shape
        heads, size = states.shape[1], states.shape[3]
        # Zeros, because a masked slot still enters the sum, times 0: it must be finite.
        store = torch.zeros(
            layers, two, rows, heads, capacity, size, dtype=states.dtype, device=states.device
        )
        self._store = store
        self._flat = [(layer[0].flatten(0, 2), layer[1].flatten(0, 2)) for layer in store]
        self._base = torch.arange(rows * heads, device=states.device) * capacity
        self._view()

    def _view(self) -> None:
        if self._store is not None:
            rows, used = self._window
            views = self._store[:, :, :rows, :, :used]
            self._views = [(layer[0], layer[1]) for layer in views]
