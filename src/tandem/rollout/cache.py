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
    grows: slots are taken as responses need them, half as many again each time, and not all at the
    first write; buffers then move. Memory: 2 · layers · rows · slots · G · D elements, and one
    layer more while it grows.
    """

    def __init__(self, *, layers: int, rows: int, capacity: int, grows: bool = True) -> None:
        super().__init__(layers=[])
        self.capacity = capacity
        self._layers, self._rows, self._grows = layers, rows, grows
        self._stores: list[Tensor] = []
        self._flat: list[tuple[Tensor, Tensor]] = []
        self._views: list[tuple[Tensor, Tensor]] = []
        self._at = torch.empty(0, dtype=torch.int64)
        self._base = torch.empty(0, dtype=torch.int64)
        self._fresh = False
        self._window = (0, 0)
        # Slots that are there, and that were asked for before the first write.
        self._slots, self._wanted = 0, 1

    @property
    def slots(self) -> int:
        """Slots of each row that memory was taken for."""
        return self._slots

    def window(self, longest: int) -> int:
        """Slots attended over when the longest row holds `longest` tokens."""
        return min(-(-longest // STEP) * STEP, self.capacity)

    def aim(self, at: Tensor, *, rows: int, used: int) -> None:
        """Where the next forward writes, and what it attends over.

        at: [rows, L] int64, the position of each new token. used: slots attended over.
        """
        self._at, self._fresh = at, True
        self._hold(used)
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
        if not self._stores:
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
        self._hold(prompts.shape[4])
        if not self._stores:
            self._allocate(prompts[0, 0])
        for store, prompt in zip(self._stores, prompts, strict=True):
            store[:, :, :, : prompt.shape[3]].index_copy_(1, rows, prompt)

    def move(self, source: Tensor, target: Tensor, *, used: int) -> None:
        """Copy the first `used` slots of rows `source` to rows `target` (disjoint)."""
        for store in self._stores:
            part = store[:, :, :, :used]
            part.index_copy_(1, target, part.index_select(1, source))

    def _hold(self, slots: int) -> None:
        """See to it that there are so many slots."""
        self._wanted = max(self._wanted, slots)
        if not self._stores or self._wanted <= self._slots:
            return
        old = self._slots
        self._slots = self._size(max(self._wanted, old + old // 2))
        for layer, store in enumerate(self._stores):
            shape = (*store.shape[:3], self._slots, store.shape[4])
            grown = torch.zeros(shape, dtype=store.dtype, device=store.device)
            grown[:, :, :, :old] = store
            self._stores[layer] = grown
        self._index()

    def _size(self, wanted: int) -> int:
        return min(-(-wanted // STEP) * STEP, self.capacity) if self._grows else self.capacity

    def _allocate(self, states: Tensor) -> None:
        heads, size = states.shape[1], states.shape[3]
        self._slots = self._size(self._wanted)
        # Zeros, because a masked slot still enters the sum, times 0: it must be finite.
        shape = (2, self._rows, heads, self._slots, size)
        self._stores = [
            torch.zeros(shape, dtype=states.dtype, device=states.device)
            for _ in range(self._layers)
        ]
        self._index()

    def _index(self) -> None:
        """What depends on how many slots there are."""
        self._flat = [(s[0].flatten(0, 2), s[1].flatten(0, 2)) for s in self._stores]
        rows = self._rows * self._stores[0].shape[2]
        self._base = torch.arange(rows, device=self._stores[0].device) * self._slots
        self._view()

    def _view(self) -> None:
        rows, used = self._window
        self._views = [(s[0, :rows, :, :used], s[1, :rows, :, :used]) for s in self._stores]
