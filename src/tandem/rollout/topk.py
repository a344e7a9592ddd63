"""The k largest of a long row, in two levels."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256


def topk(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their ids, largest first: [B, V] → [B, k], [B, k].

    Exact: the k largest lie in the k blocks whose maxima are largest. One pass over V, where
    `torch.topk` on a CPU sorts pairs. Which of several equal values is taken is not specified.
    """
    rows, size = values.shape
    assert 0 < k <= size, f"{k} of {size} values"
    blocks = size // BLOCK
    if blocks <= 2 * k:
        top = values.topk(k)
        return top.values, top.indices
    body_BNC = values[:, : blocks * BLOCK].view(rows, blocks, BLOCK)
    chosen_BK = body_BNC.amax(-1).topk(k).indices
    wide = chosen_BK[..., None].expand(rows, k, BLOCK)
    ids = (chosen_BK[..., None] * BLOCK + torch.arange(BLOCK, device=values.device)).flatten(1)
    tail = torch.arange(blocks * BLOCK, size, device=values.device).expand(rows, -1)
    pool = torch.cat([body_BNC.gather(1, wide).flatten(1), values[:, blocks * BLOCK :]], 1)
    top = pool.topk(k)
    return top.values, torch.cat([ids, tail], 1).gather(1, top.indices)
