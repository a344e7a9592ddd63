"""Passes over V for the blend of two models: moments of the log-ratio under p, q and μ_β.

Shapes: N rows, A of them, V vocabulary. The passes run in torch on the inputs' device, over blocks
of rows whose two work buffers stay in a CPU's cache; what they find, a few numbers per row, goes to
the host in float64, once for each pass over all rows. The log-ratio is kept where the law will be
written, so that no further table of the size [N, V] exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.bracket import Flags, Rows

Index = NDArray[np.int64]

# Log-probs below this are masks, −inf or a dtype's lowest number.
MASKED = -1e15
# Largest −E_p[r] that centring takes in fp32 without overflow of the weights.
CENTRE_LIMIT = 30.0
# Elements of a block of rows.
BLOCK_CPU, BLOCK_OTHER = 2**18, 2**27


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on N rows, conditioned on their common support, with what both end points tell.

    p, q, r [N, V]: log-probs, −inf off the support, and log-ratio less E_p[r]; r is where the laws
    are written. weight [C, V]: work space for a block of C rows.
    log_mass [N]: log Σ p on the support as p's own precision sums it.
    lost [N]: −log of the student's whole mass on the support, 0 where the supports are equal.
    mean, slope [N]: E_p[r] and √Var_p r. top_kl, top_slope [N]: KL(q‖p) on the support, and dG/dβ
    at β = 1. jeffreys [N]: KL(q‖p) + KL(p‖q) there.
    """

    p: Tensor
    q: Tensor
    r: Tensor
    weight: Tensor
    log_mass: Rows
    lost: Rows
    mean: Rows
    slope: Rows
    top_kl: Rows
    top_slope: Rows
    jeffreys: Rows


def end_points(p: Tensor, q: Tensor, *, room: Tensor) -> Pair:
    """The end-point pass: two exponentials and six sums over V. `room` [N, V] becomes r."""
    block = BLOCK_CPU if p.device.type == "cpu" else BLOCK_OTHER
    block = min(max(1, block // max(1, p.shape[-1])), max(1, len(p)))
    weight, product = (p.new_empty(block, p.shape[-1]) for _ in range(2))
    blocks = [slice(start, start + block) for start in range(0, len(p), block)]

    def sums_of(p: Tensor, q: Tensor) -> Rows:
        found = [_end_moments(p[at], q[at], room[at], weight, product) for at in blocks]
        return to_host(torch.cat(found, -1)) if found else np.zeros((6, 0))

    sums, lost = sums_of(p, q), np.zeros(len(p))
    if not np.isfinite(sums).all():
        # An id masked in one model alone makes r infinite and shows here without a test of its own.
        # Finite masks of the size of a dtype's limit overflow r² and are treated alike.
        p, q, lost = _on_common_support(p, q)
        sums = sums_of(p, q)
        assert np.isfinite(sums[:, sums[0] != 0]).all(), "log-probs hold nan"
    mass_p, mean_p, variance_p, mass_q, first_q, second_q = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_q = first_q / mass_q
        top_kl = np.maximum(mean_q - np.log(mass_q) + np.log(mass_p), 0.0)
        variance_q = np.maximum(second_q / mass_q - mean_q**2, 0.0)
        return Pair(
            p=p,
            q=q,
            r=room,
            weight=weight,
            log_mass=np.log(mass_p),
            lost=lost,
            mean=mean_p,
            slope=np.sqrt(variance_p),
            top_kl=top_kl,
            top_slope=variance_q / np.sqrt(2 * top_kl),
            jeffreys=np.maximum(mean_q - mean_p, 0.0),
        )


def _on_common_support(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Rows]:
    """Both models conditioned on the ids that both have, and −log p of those ids, [N].

    Rows whose supports are equal keep their numbers; one whose supports are disjoint keeps nothing.
    """
    off_p, off_q = p < MASKED, q < MASKED
    cut = (off_p != off_q).any(-1)
    whole = p[cut].logsumexp(-1)
    off = off_p | off_q
    p, q = p.masked_fill(off, -math.inf), q.masked_fill(off, -math.inf)
    held = p[cut].logsumexp(-1)
    lost = np.zeros(len(p))
    lost[cut.cpu().numpy()] = to_host(whole - held).clip(min=0.0)
    empty = off[cut].all(-1, keepdim=True)
    for table in (p, q):
        # The rest may hold so little of a model's mass that all its exponentials are 0: a softmax
        # takes the largest log-prob out first.
        table[cut] = table[cut].log_softmax(-1).masked_fill_(empty, -math.inf)
    return p, q, lost


def _end_moments(p: Tensor, q: Tensor, r: Tensor, weight: Tensor, product: Tensor) -> Tensor:
    """Σ p, E_p[r], Var_p[r], Σ q, Σ q r, Σ q r² of a block, [6, C]; r becomes q − p − E_p."""
    weight, product = weight[: len(p)], product[: len(p)]
    torch.sub(q, p, out=r).nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf)
    of_q = _moments(torch.exp(q, out=weight), r)
    torch.exp(p, out=weight)
    mass = weight.sum(-1)
    mean = torch.mul(weight, r, out=product).sum(-1) / mass
    # Centred before it is squared: where p is sure of one token, the variance is a tiny rest.
    r.sub_(mean[:, None])
    variance = weight.mul_(r).mul_(r).sum(-1) / mass
    return torch.stack([mass, mean, variance, *of_q])


def _moments(weight: Tensor, r: Tensor) -> list[Tensor]:
    """Σ w, Σ w r, Σ w r² over V; the weights' buffer is used up.

    Products and cascaded sums, not a matrix product: those may run in TF32 or bf16.
    """
    return [weight.sum(-1), weight.mul_(r).sum(-1), weight.mul_(r).sum(-1)]


def blend_moments(
    pair: Pair, rows: Index, beta: Rows, *, dtype: torch.dtype
) -> tuple[Rows, Rows, Rows]:
    """log Σ p e^{βr}, E_μ[r] and Var_μ[r] of A rows: one pass over V."""
    beta_A = _column(beta, pair, dtype)
    found = []
    for here, at in _blocks(rows, len(pair.weight)):
        p, r = _block(pair, at, dtype)
        out = pair.weight[: len(p)] if dtype == pair.weight.dtype else None
        weight = torch.addcmul(p, r, beta_A[here], out=out)
        top = torch.zeros_like(p[:, 0])
        if dtype == torch.float64:
            # Rows that fp32 cannot hold may leave any range: at e^−10⁴ all weights would be 0.
            top = weight.amax(-1)
            weight.sub_(top[:, None])
        found.append(torch.stack([top, *_moments(weight.exp_(), r)]))
    top, z, first, second = to_host(found[0] if len(found) == 1 else torch.cat(found, -1))
    mean = first / z
    return np.log(z) + top, mean, np.maximum(second / z - mean**2, 0.0)


def write_laws(pair: Pair, rows: Index, beta: Rows, log_z: Rows, *, dtype: torch.dtype) -> None:
    """log μ = log p + βr − log Σ p e^{βr} of A rows, over their r; any constant in r cancels."""
    beta_A, log_z_A = _column(beta, pair, dtype), _column(log_z, pair, dtype)
    for here, at in _blocks(rows, len(pair.weight)):
        p, r = _block(pair, at, dtype)
        out = r if isinstance(at, slice) and dtype == pair.r.dtype else None
        law = torch.addcmul(p, r, beta_A[here], out=out).sub_(log_z_A[here])
        if out is None:
            pair.r[at] = law.to(pair.r.dtype)


def write_top(pair: Pair, which: Flags) -> None:
    """Exponent 1: the teacher bit for bit, conditioned only where its support was cut."""
    copy_rows(pair.q, which, pair)


def copy_rows(table: Tensor, which: Flags, pair: Pair) -> None:
    """Laws that are rows of a table [N, V] as they are."""
    for _, at in _blocks(np.flatnonzero(which), len(pair.weight)):
        pair.r[at] = table[at]


def by_precision(pair: Pair, inside: Flags) -> list[tuple[Index, torch.dtype]]:
    """The rows to blend, by the precision they need.

    The KL is the difference βE_μ[r] − A(β), which loses digits where both are far from 0. Centring
    r on E_p[r] cures that while the weights stay in fp32's range; the few rows beyond use fp64.
    """
    wide = inside & (-pair.mean > CENTRE_LIMIT)
    if pair.p.dtype == torch.float64 or not wide.any():
        return [(np.flatnonzero(inside), pair.p.dtype)] if inside.any() else []
    groups = [(np.flatnonzero(inside & ~wide), pair.p.dtype), (np.flatnonzero(wide), torch.float64)]
    return [(rows, dtype) for rows, dtype in groups if len(rows)]


def to_host(per_row: Tensor) -> Rows:
    return per_row.to("cpu", torch.float64).numpy()


def _column(values: Rows, pair: Pair, dtype: torch.dtype) -> Tensor:
    """[A] numbers of the host as [A, 1] on the device of the models."""
    return torch.from_numpy(values).to(pair.p.device, dtype)[:, None]


def _block(pair: Pair, at: slice | Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """p and centred r of some rows in the precision of the search."""
    p, r = pair.p[at], pair.r[at]
    if dtype == p.dtype:
        return p, r
    p, q = p.to(dtype), pair.q[at].to(dtype)
    centre = torch.from_numpy(pair.mean).to(p.device)[at]
    return p, (q - p).nan_to_num_(nan=0.0).sub_(centre[:, None])


def _blocks(rows: Index, size: int) -> Iterator[tuple[slice, slice | Tensor]]:
    """Ascending rows in blocks: where in `rows` each lies, and what to index a table [N, V] by.

    Rows that follow one another are a view of the table; others have to be gathered.
    """
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        first, last = int(some[0]), int(some[-1])
        together = last - first + 1 == len(some)
        here = slice(start, start + len(some))
        yield here, slice(first, last + 1) if together else torch.from_numpy(some)
