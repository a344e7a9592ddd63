"""Uniform draws from a counter hash instead of a generator.

The draw of (seed, sequence, position, kind) is a pure function of those four numbers. So results do
not depend on the device, on which rows share a batch, on the order in which slots are refilled, and
a resumed run needs no generator state.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 2**64
# Stafford's "mix 13" finaliser and Weyl increment, as in splitmix64 (Steele, Lea, Flood 2014).
_WEYL = 0x9E3779B97F4A7C15
_MULTIPLY_1 = 0xBF58476D1CE4E5B9
_MULTIPLY_2 = 0x94D049BB133111EB
# 23 bits and a half: every value (k + ½)/2²³ is exact in float32 and lies strictly inside (0, 1).
_BITS = 23


def uniform(seed: int, sequence: Tensor, position: Tensor, kind: int) -> Tensor:
    """One uniform in (0, 1) for each (seed, sequence, position, kind).

    seed: any integer (taken modulo 2**64). sequence, position: int64, broadcast against each other.
    kind: which draw of that position this is (`types.Draw`).
    Returns float32 of the broadcast shape, on the device of `sequence`; never 0 and never 1.
    """
    assert sequence.dtype == position.dtype == torch.int64, "counters are int64"
    # Everything that is the same for all rows is folded once, on the host, in exact integers.
    base = _mix_integer(_mix_integer(seed + _WEYL) + (int(kind) + 1) * _WEYL)
    word = _mix(sequence * _signed(_WEYL) + _signed(base))
    word = _mix(word + position * _signed(_WEYL) + _signed(_WEYL))
    top = _shift_right(word, 64 - _BITS)
    return (top.to(torch.float32) + 0.5) * 2.0**-_BITS


def _mix(word: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 tensors; products wrap modulo 2**64."""
    word = (word ^ _shift_right(word, 30)) * _signed(_MULTIPLY_1)
    word = (word ^ _shift_right(word, 27)) * _signed(_MULTIPLY_2)
    return word ^ _shift_right(word, 31)


def _shift_right(word: Tensor, bits: int) -> Tensor:
    """Logical shift: torch shifts int64 arithmetically, so the copied sign bits are cleared."""
    return (word >> bits) & (2 ** (64 - bits) - 1)


def _mix_integer(word: int) -> int:
    """The same finaliser in Python integers."""
    word %= _WORD
    word = ((word ^ (word >> 30)) * _MULTIPLY_1) % _WORD
    word = ((word ^ (word >> 27)) * _MULTIPLY_2) % _WORD
    return word ^ (word >> 31)


def _signed(word: int) -> int:
    """The int64 with the same 64 bits."""
    return word - _WORD if word >= _WORD // 2 else word
