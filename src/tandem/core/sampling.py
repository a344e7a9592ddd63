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
# The largest float64 below 1: this share of a total is always less than the total.
BELOW_ONE = 1.0 - 2.0**-53


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
    if size <= ONE_LEVEL:
        return _cell(logp.exp(), u)[0]
    mass = _padded(logp)
    torch.exp(logp, out=mass[:, :size])
    return _two_levels(mass, u)


@torch.no_grad()
def sample_mass(mass: Tensor, u: Tensor) -> Tensor:
    """As `sample`, from the masses themselves: [B, V], not negative, with a positive sum."""
    rows, size = mass.shape
    assert u.shape == (rows,), f"one uniform per row: {tuple(u.shape)} for {rows} rows"
    if size <= ONE_LEVEL:
        return _cell(mass, u)[0]
    padded = _padded(mass)
    padded[:, :size] = mass
    return _two_levels(padded, u)


def _padded(like: Tensor) -> Tensor:
    """[B, N·K] for values [B, V]: whole blocks, the rest of the last one zero."""
    rows, size = like.shape
    blocks = -(-size // BLOCK)
    mass = torch.empty(rows, blocks * BLOCK, dtype=like.dtype, device=like.device)
    mass[:, size:] = 0.0
    return mass


def _two_levels(mass: Tensor, u: Tensor) -> Tensor:
    """The block, then the id in it; mass [B, N·K]."""
    mass_BNK = mass.view(len(mass), mass.shape[1] // BLOCK, BLOCK)
    sums_BN = mass_BNK.sum(-1)
    block, cumulative, target = _cell(sums_BN, u)
    # Where in its block u falls is again a uniform, given the block: the draw of the next level.
    here = block[:, None]
    width = sums_BN.gather(-1, here).to(torch.float64)
    start = cumulative.gather(-1, here) - width
    inner = ((target - start) / width).clamp(0.0, BELOW_ONE)[:, 0]
    chosen_BK = mass_BNK[torch.arange(len(mass), device=mass.device), block]
    return block * BLOCK + _cell(chosen_BK, inner)[0]


def _cell(mass: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse CDF of unnormalised mass [B, M] at u [B], below 1: the cell [B], and in float64 the
    cumulative mass [B, M] and the point of it that u is [B, 1].

    Few operations: over a small vocabulary each costs more to call than to compute.
    """
    cumulative = mass.cumsum(-1, dtype=torch.float64)
    # A cell without mass is never a candidate, even where a parallel scan rounds its two ends
    # apart; and u is below 1, so that the target is below the largest candidate: there is one.
    candidate = cumulative * (mass > 0)
    total = candidate.amax(-1, keepdim=True)
    # On a GPU the host would have to wait for the answer.
    assert mass.is_cuda or bool((total > 0).all()), "a row to sample from has no mass, or is nan"
    target = total * u[:, None]
    return (candidate > target).view(torch.uint8).argmax(-1), cumulative, target
