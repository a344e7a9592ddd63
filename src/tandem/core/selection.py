"""Which tokens of a whole step are among its largest, however they lie on ranks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def top_share(
    values: Tensor,
    *,
    among: Tensor,
    fraction: float,
    gather: Callable[[Tensor], Tensor] = lambda own: own,
) -> Tensor:
    """[n] bool: this rank's values among the largest `fraction` of the step's.

    values: [n] numbers. among: [n] bool, those that stand for selection at all. gather: [m] of this
    rank to the values of all ranks (collective, called once, also without any token).
    Of N such values on all ranks the threshold is the ⌈fraction·N⌉-th largest. All that equal it
    are in, so that neither order nor split decides; ties may then make it more than `fraction`.
    """
    assert 0.0 < fraction <= 1.0, f"a share of {fraction}"
    everything = gather(values[among])
    if not len(everything):
        return torch.zeros_like(among)
    # Rounded first: 0.55 · 100 is a little more than 55 in binary.
    count = max(1, math.ceil(round(fraction * len(everything), 6)))
    threshold = everything.topk(count).values[-1]
    return among & (values >= threshold)
