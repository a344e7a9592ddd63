"""Drawing ids from log-probabilities with one uniform each: a two-level inverse CDF.

One pass over V takes exponentials, a second (in cache) sums blocks; the block and then the id in it
are found by inverse CDF. No cumulative sum over the whole vocabulary, no noise per id.
Shapes: B rows, V vocabulary, K ids per block.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 512
# Below this a second level costs more calls than the pass it saves.
ONE_LEVEL = 640


@torch.no_grad()
def sample(logp: Tensor, u: Tensor) -> Tensor:
    """The id whose cell of the cumulative distribution holds u, per row.

    logp: [B, V] log-probabilities, −inf on forbidden ids; they need not be normalised.
    u: [B] uniforms in (0, 1).
    Returns [B] int64. An id without mass is never returned, whatever u rounds to.
    The result depends on the row and its uniform alone, not on the other rows.
    """
    rows, size = logp.shape
    assert u.shape == (rows,), f"one uniform per row: {tuple(u.shape)} for {rows} rows"
    target = u.to(torch.float64)
    if size <= ONE_LEVEL:
        return _pick(logp.exp().to(torch.float64), target)[0]
    blocks = -(-size // BLOCK)
    mass = torch.empty(rows, blocks * BLOCK, dtype=logp.dtype, device=logp.device)
    mass[:, size:] = 0.0
    torch.exp(logp, out=mass[:, :size])
    mass_BNK = mass.view(rows, blocks, BLOCK)
    block, target = _pick(mass_BNK.sum(-1).to(torch.float64), target)
    chosen_BK = mass_BNK[torch.arange(rows, device=logp.device), block]
    return block * BLOCK + _pick(chosen_BK.to(torch.float64), target)[0]


def _pick(mass: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse CDF of unnormalised mass [B, M] at u [B]: the cell [B], and where in it u falls.

    The second result, in [0, 1], is again a uniform given the cell: the next level's draw.
    """
    cumulative = mass.cumsum(-1)
    # A cell without mass is never a candidate, even where a parallel scan rounds its two ends
    # apart; and the target stays below the largest candidate, so that there always is one.
    candidate = torch.where(mass > 0, cumulative, 0.0)
    total = candidate.amax(-1)
    assert bool((total > 0).all()), "a row to sample from has no mass, or is nan"
    target = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    cell = (candidate > target[:, None]).to(torch.uint8).argmax(-1)
    width = mass.gather(-1, cell[:, None])[:, 0]
    start = cumulative.gather(-1, cell[:, None])[:, 0] - width
    return cell, ((target - start) / width).clamp(0.0, 1.0)
