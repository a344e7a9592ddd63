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
    by_token: the heads of a token lie side by side, and all slots are handed out whatever is aimed
    at: what attention by lengths wants.
    grows: slots are taken as responses need them, half as many again each time, and not all at the
    first write; buffers then move. Memory: 2 · layers · rows · slots · G · D elements, and one
    layer more while it grows.
    """

    def __init__(
        self,
        *,
        layers: int,
        rows: int,
        capacity: int,
        grows: bool = True,
        by_token: bool = False,
    ) -> None:
        super().__init__(layers=[])
        self.capacity, self._by_token = capacity, by_token
        self._layers, self._rows, self._grows = layers, rows, grows
        # Of each layer [2, rows, G, S, D], as views where memory has another order.
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

    def spares(self, ends: list[int], used: int) -> int:
        """Bytes of a layer's keys and values in `used` slots of each row, beyond what rows holding
        so many tokens need read."""
        if not self._stores:
            return 0
        store = self._stores[0]
        slot = 2 * store.shape[2] * store.shape[4] * store.dtype.itemsize
        return (len(ends) * used - sum(ends)) * slot

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
            # Once a round: every layer writes at the same places of its flat store.
            rows, heads = key_states.shape[:2]
            if self._by_token:  # [B, L]
                at = self._base[:rows, None] + self._at
            else:  # [B, G, L]
                at = self._base[: rows * heads].view(rows, heads, 1) + self._at[:, None]
            self._at, self._fresh = at.view(-1), False
        for flat, new in zip(self._flat[layer_idx], (key_states, value_states), strict=True):
            ordered = new.transpose(1, 2) if self._by_token else new
            flat.index_copy_(0, self._at, ordered.reshape(-1, flat.shape[1]))
        return self._views[layer_idx]

    def fill(self, rows: Tensor, prompts: Tensor) -> None:
        """Copy prefilled prompts [layers, 2, n, G, P, D] into the first P slots of n rows."""
        self._hold(prompts.shape[4])
        if not self._stores:
            self._allocate(prompts[0, 0])
        for store, prompt in zip(self._stores, prompts, strict=True):
            store[:, :, :, : prompt.shape[3]].index_copy_(1, rows, prompt)

    def move(self, source: list[int], target: list[int], *, used: int) -> None:
        """Copy the first `used` slots of rows `source` to rows `target` (disjoint)."""
        for store in self._stores:
            # A row at a time: an index over a slice would first copy the slice, every row of it.
            for old, new in zip(source, target, strict=True):
                store[:, new, :, :used].copy_(store[:, old, :, :used])

    def _hold(self, slots: int) -> None:
        """See to it that there are so many slots."""
        self._wanted = max(self._wanted, slots)
        if not self._stores or self._wanted <= self._slots:
            return
        old = self._slots
        self._slots = self._size(max(self._wanted, old + old // 2))
        for layer, store in enumerate(self._stores):
            grown = self._zeros(store[0])
            grown[:, :, :, :old] = store
            self._stores[layer] = grown
        self._index()

    def _size(self, wanted: int) -> int:
        return min(-(-wanted // STEP) * STEP, self.capacity) if self._grows else self.capacity

    def _allocate(self, states: Tensor) -> None:
        self._slots = self._size(self._wanted)
        self._stores = [self._zeros(states) for _ in range(self._layers)]
        self._index()

    def _zeros(self, like: Tensor) -> Tensor:
        """A layer's store for heads like those of states [n, G, L, D]."""
        # Zeros, because a masked slot still enters the sum, times 0: it must be finite.
        inner = (like.shape[1], self._slots)
        inner = inner[::-1] if self._by_token else inner
        shape = (2, self._rows, *inner, like.shape[3])
        store = torch.zeros(shape, dtype=like.dtype, device=like.device)
        return store.transpose(2, 3) if self._by_token else store

    def _index(self) -> None:
        """What depends on how many slots there are."""
        rows, device = self._rows, self._stores[0].device
        if self._by_token:
            memory = [store.transpose(2, 3).flatten(3) for store in self._stores]
            self._flat = [(m[0].flatten(0, 1), m[1].flatten(0, 1)) for m in memory]
        else:
            self._flat = [(s[0].flatten(0, 2), s[1].flatten(0, 2)) for s in self._stores]
            rows *= self._stores[0].shape[2]
        self._base = torch.arange(rows, device=device) * self._slots
        self._view()

    def _view(self) -> None:
        rows, used = self._window
        used = self._slots if self._by_token else used
        self._views = [(s[0, :rows, :, :used], s[1, :rows, :, :used]) for s in self._stores]
