"""One model's side of the lock-step: its cache, its next tokens, and where each row stands.

The loop is made uniform by a trick: all of a prompt but its last token is prefilled, and the last
token is the first one fed. Each model has its own prompts, so its own positions.

Shapes: B live rows, L tokens fed at once, S slots, P prompt tokens prefilled, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tandem.rollout import attention, varlen
from tandem.rollout.cache import SlotCache
from tandem.rollout.graphs import bucket_of_slots
from tandem.rollout.protocol import SpeakerLike

NEXT, POSITION = 0, 1
# Bytes of keys and values that must be left unread for each row before a CPU attends to rows one by
# one: so many are read in the time of one more call.
A_ROW_ALONE = 2**15


@dataclass(frozen=True, slots=True)
class Prefilled:
    """states: keys and values [layers, 2, n, G, P, D]. hidden: [n, P, H] after each token."""

    states: Tensor
    hidden: Tensor


class Lane:
    """A speaker with `rows` slots of up to `capacity` tokens; see `SlotCache` for `grows`. Rows
    0 … B−1 are the live ones."""

    def __init__(
        self, speaker: SpeakerLike, *, rows: int, capacity: int, grows: bool = True
    ) -> None:
        self.speaker = speaker
        layers = speaker.config.num_hidden_layers
        attends = speaker.config._attn_implementation
        self._by_length = attends == varlen.NAME
        self.cache = SlotCache(
            layers=layers, rows=rows, capacity=capacity, grows=grows, by_token=self._by_length
        )
        device = speaker.device
        # Per row, on the device: the token to feed next, and the position it will have.
        self._state = torch.zeros(2, rows, dtype=torch.int64, device=device)
        self._slots = torch.arange(capacity, device=device)
        # The mask of rows that attend to every slot, where it saves the work of a true one.
        taken = attends == attention.NAME
        self._whole = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device) if taken else None
        # The positions once more on the host, where shapes are decided without waiting.
        self.lengths: list[int] = []

    @property
    def next_tokens(self) -> Tensor:
        """[rows, 1] the last settled token of each row, not fed yet; the live ones come first."""
        return self._state[NEXT, :, None]

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> Prefilled | None:
        """All tokens but the last of each prompt, right-padded, in one forward; None where every
        prompt is a single token."""
        longest = max(len(p) for p in prompts) - 1
        if longest == 0:
            return None
        padded = [p[:-1] + (0,) * (longest - len(p) + 1) for p in prompts]
        ids = torch.tensor(padded, device=self.speaker.device)
        positions = torch.arange(longest, device=ids.device).expand_as(ids)
        cache = DynamicCache(config=self.speaker.config)
        # Causal attention: no token of a prompt sees the padding that follows it.
        hidden = self.speaker.hidden(ids, positions, cache=cache)
        written = sum(isinstance(x, DynamicLayer) and x.is_initialized for x in cache.layers)
        if written < len(cache.layers):
            # Layers in training mode with gradient checkpointing drop their cache without a word.
            raise ValueError(
                f"{written} of {len(cache.layers)} layers wrote to the cache: put the model in "
                "evaluation mode, or switch gradient checkpointing off"
            )
        return Prefilled(torch.stack([_states(layer) for layer in cache.layers]), hidden)

    def admit(
        self, rows: list[int], prompts: Sequence[tuple[int, ...]], states: Tensor | None
    ) -> None:
        """Start the prompts in `rows` (live rows to be replaced, or the next ones after them)."""
        target = torch.tensor(rows, device=self.speaker.device)
        if states is not None:
            self.cache.fill(target, states)
        fresh = torch.tensor([[p[-1] for p in prompts], [len(p) - 1 for p in prompts]])
        self._state.index_copy_(1, target, fresh.to(target.device))
        for row, prompt in zip(rows, prompts, strict=True):
            if row == len(self.lengths):
                self.lengths.append(0)
            self.lengths[row] = len(prompt) - 1

    def feed(self, tokens_BL: Tensor, *, ahead: int = 0, used: int | None = None) -> Tensor:
        """Hidden states [B, L, H] after each of L tokens, which follow `ahead` tokens that were fed
        since the last settling; nothing is settled by it.

        Token j of row i is written at L_i + ahead + j, over whatever an earlier draft left there.
        used: slots to attend over; by default as few as the live rows, which B then is, need.
        """
        rows, fed = tokens_BL.shape
        positions_BL = self._state[POSITION, :rows, None]
        if ahead or fed > 1:
            positions_BL = positions_BL + self._slots[ahead : ahead + fed]
        if used is not None:
            mask = self._mask(positions_BL, used)
        else:
            assert rows == len(self.lengths), "one row of tokens per live row"
            longest = max(self.lengths) + ahead
            ends = [length + ahead + fed for length in self.lengths]
            used = self.cache.window(longest + fed)
            if fed == 1 and self._whole is not None and min(ends) == max(ends):
                used, mask = longest + 1, self._whole
            elif self._whole is not None and self.cache.spares(ends, used) > rows * A_ROW_ALONE:
                mask = self._lengths(positions_BL)
            else:
                mask = self._mask(positions_BL, used)
        self.cache.aim(positions_BL, rows=rows, used=used)
        return self.speaker.hidden(tokens_BL, positions_BL, mask=mask, cache=self.cache)

    def bucket(self, width: int) -> int:
        """Slots to attend over in a round of fixed shapes and `width` tokens."""
        if self._by_length:
            return self.cache.capacity
        return bucket_of_slots(max(self.lengths) + width, self.cache.capacity)

    def _mask(self, positions_BL: Tensor, used: int) -> Tensor:
        """Which of the first `used` slots each token sees, [B, 1, L, S]; or the lengths of rows,
        [B, 1, 1, 1], which say it all."""
        if self._by_length:
            return self._lengths(positions_BL)
        return self._slots[:used] <= positions_BL[:, None, :, None]

    def _lengths(self, positions_BL: Tensor) -> Tensor:
        """Tokens that each row holds once these are written, [B, 1, 1, 1]."""
        return (positions_BL[:, -1:] + 1).to(torch.int32)[:, None, None]

    def settle(self, last_B: Tensor, count_B: Tensor) -> None:
        """Accept so many tokens of each row; `last_B` [B] is the newest of each, to be fed next."""
        rows = len(last_B)
        self._state[NEXT, :rows] = last_B
        self._state[POSITION, :rows] += count_B

    def note(self, counts: Sequence[int]) -> None:
        """The same on the host, for the live rows."""
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]

    def compact(self, source: list[int], target: list[int], *, live: int) -> None:
        """Move rows `source` into the holes `target`; the first `live` rows remain."""
        if source:
            used = max(self.lengths[row] for row in source)
            here = torch.tensor([source, target], device=self.speaker.device)
            self.cache.move(source, target, used=self.cache.window(used))
            self._state.index_copy_(1, here[1], self._state.index_select(1, here[0]))
            for old, new in zip(source, target, strict=True):
                self.lengths[new] = self.lengths[old]
        # Rows without a response may be fed as well, into their own first slots.
        self._state[POSITION, live : len(self.lengths)] = 0
        del self.lengths[live:]


def _states(layer: object) -> Tensor:
    """[2, n, G, P, D] keys and values of one layer."""
    assert isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
    return torch.stack((layer.keys, layer.values))
