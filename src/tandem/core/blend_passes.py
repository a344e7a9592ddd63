"""Passes over V for the blend of two models: moments of the log-ratio under p, q and μ_β.

Shapes: N rows, V vocabulary. The passes run in torch on the inputs' device; what they find, a few
numbers per row, goes to the host in float64. The laws that result are written row by row group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.bracket import Flags, Rows

Index = NDArray[np.int64]

# Log-probs below this are masks, −inf or a dtype's lowest number.
MASKED = -1e15
# Largest −E_p[r] that centring takes without overflow of the weights, by precision.
CENTRE_LIMIT = {torch.float32: 30.0, torch.float64: 300.0}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on N rows, restricted to their common support, with what both end points tell.

    p, q, r [N, V]: log-probs, −inf off the support, and log-ratio less E_p[r].
    mass_p [N]: Σ p on the support as fp32 sums it. lost [N]: −log p(support), 0 where the supports
    are equal. shift [N]: log q(support) likewise. mean, slope [N]: E_p[r] and √Var_p r.
    top_kl, top_slope [N]: KL(q‖p) on the support, and dG/dβ at β = 1.
    jeffreys [N]: KL(q‖p) + KL(p‖q) there.
    """

    p: Tensor
    q: Tensor
    r: Tensor
    mass_p: Rows
    lost: Rows
    shift: Rows
    mean: Rows
    slope: Rows
    top_kl: Rows
    top_slope: Rows
    jeffreys: Rows


def end_points(p: Tensor, q: Tensor) -> Pair:
    """The end-point pass: two exponentials and six sums over V."""
    r = torch.sub(q, p).nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf)
    sums = _end_moments(p, q, r)
    total_p, total_q = sums[0], sums[3]
    if not np.isfinite(sums).all():
        # An id masked in one model alone makes r infinite and shows here without a test of its own.
        # Finite masks of the size of a dtype's limit overflow r² and are treated alike.
        off = (p < MASKED) | (q < MASKED)
        p, q = p.masked_fill(off, -math.inf), q.masked_fill(off, -math.inf)
        r = (q - p).masked_fill_(off, 0.0)
        sums = _end_moments(p, q, r)
        empty = sums[0] == 0
        assert np.isfinite(sums[:, ~empty]).all(), "log-probs hold nan"
    mass_p, mean_p, variance_p, mass_q, first_q, second_q = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_q = first_q / mass_q
        top_kl = np.maximum(mean_q - np.log(mass_q) + np.log(mass_p), 0.0)
        variance_q = np.maximum(second_q / mass_q - mean_q**2, 0.0)
        return Pair(
            p=p,
            q=q,
            r=r,
            mass_p=mass_p,
            lost=np.log(total_p) - np.log(mass_p),
            shift=np.log(mass_q) - np.log(total_q),
            mean=mean_p,
            slope=np.sqrt(variance_p),
            top_kl=top_kl,
            top_slope=variance_q / np.sqrt(2 * top_kl),
            jeffreys=np.maximum(mean_q - mean_p, 0.0),
        )


def _end_moments(p: Tensor, q: Tensor, r: Tensor) -> Rows:
    """Σ p, E_p[r], Var_p[r], Σ q, Σ q r, Σ q r² on the host, [6, N]; centres r on E_p[r]."""
    weight = torch.exp(q)
    of_q = _moments(weight, r)
    torch.exp(p, out=weight)
    mass = weight.sum(-1)
    mean = (weight * r).sum(-1) / mass
    # Centred before it is squared: where p is sure of one token, the variance is a tiny rest.
    r.sub_(mean[:, None])
    variance = weight.mul_(r).mul_(r).sum(-1) / mass
    return to_host(torch.stack([mass, mean, variance, *of_q]))


def _moments(weight: Tensor, r: Tensor) -> list[Tensor]:
    """Σ w, Σ w r, Σ w r² over V; the weights' buffer is used up.

    Products and cascaded sums, not a matrix product: those may run in TF32 or bf16.
    """
    return [weight.sum(-1), weight.mul_(r).sum(-1), weight.mul_(r).sum(-1)]


def centred(pair: Pair, rows: Index, dtype: torch.dtype) -> tuple[Tensor, Tensor, Rows]:
    """p and r − E_p[r] of some rows in the precision of the search, and log Σ p as it sums it."""
    p, r = pick(pair.p, rows), pick(pair.r, rows)
    if dtype == p.dtype:
        return p, r, np.log(pair.mass_p[rows])
    p, q = p.to(dtype), pick(pair.q, rows).to(dtype)
    r = (q - p).nan_to_num_(nan=0.0)
    centre = np.maximum(pair.mean[rows], -CENTRE_LIMIT[dtype])
    return p, r.sub_(column(centre, r)), np.log(to_host(p.exp().sum(-1)))


def blend_moments(p: Tensor, r: Tensor, beta: Rows) -> tuple[Rows, Rows, Rows]:
    """log Σ p e^{βr}, E_μ[r] and Var_μ[r] of A rows: one pass over V."""
    weight = torch.addcmul(p, r, column(beta, p)).exp_()
    z, first, second = to_host(torch.stack(_moments(weight, r)))
    mean = first / z
    return np.log(z), mean, np.maximum(second / z - mean**2, 0.0)


def by_precision(pair: Pair, inside: Flags) -> list[tuple[Index, torch.dtype]]:
    """The rows to blend, by the precision they need.

    The KL is the difference βE_μ[r] − A(β), which loses digits where both are far from 0. Centring
    r on E_p[r] cures that while the weights stay in fp32's range; the few rows beyond use fp64.
    """
    wide = inside & (-pair.mean > CENTRE_LIMIT[pair.p.dtype])
    if not wide.any():
        return [(np.flatnonzero(inside), pair.p.dtype)] if inside.any() else []
    groups = [(np.flatnonzero(inside & ~wide), pair.p.dtype), (np.flatnonzero(wide), torch.float64)]
    return [(rows, dtype) for rows, dtype in groups if len(rows)]


def write_top(pair: Pair, which: Flags, logp: Tensor) -> None:
    """Exponent 1: the teacher bit for bit, renormalised only where its support was cut."""
    if not which.any():
        return
    rows = np.flatnonzero(which)
    law = pick(pair.q, rows)
    if pair.shift[rows].any():
        law = law - column(pair.shift[rows], law)
    _put(logp, rows, law)


def write_law(p: Tensor, r: Tensor, beta: Rows, log_z: Rows, rows: Index, logp: Tensor) -> None:
    """log μ = log p + βr − log Σ p e^{βr}; any constant in r cancels."""
    if len(rows) == len(logp) and p.dtype == logp.dtype:
        torch.addcmul(p, r, column(beta, p), out=logp).sub_(column(log_z, p))
    else:
        _put(logp, rows, torch.addcmul(p, r, column(beta, p)).sub_(column(log_z, p)))


def copy_rows(table: Tensor, which: Flags, logp: Tensor) -> None:
    """Copy some rows of a table [N, V] into the same rows of `logp`."""
    if which.any():
        rows = np.flatnonzero(which)
        _put(logp, rows, pick(table, rows))


def _put(logp: Tensor, rows: Index, law: Tensor) -> None:
    if len(rows) == len(logp):
        logp.copy_(law)
    else:
        logp[torch.from_numpy(rows).to(logp.device)] = law.to(logp.dtype)


def to_host(per_row: Tensor) -> Rows:
    return per_row.to("cpu", torch.float64).numpy()


def column(values: Rows, like: Tensor) -> Tensor:
    """[N] numbers of the host as an [N, 1] tensor beside `like`."""
    return torch.from_numpy(values).to(like.device, like.dtype)[:, None]


def pick(table: Tensor, rows: Index) -> Tensor:
    """Some rows of a table [N, V], in ascending order; the table itself if that is all."""
    if len(rows) == len(table):
        return table
    return table[torch.from_numpy(rows).to(table.device)]
