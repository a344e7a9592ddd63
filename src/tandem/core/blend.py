"""The geometric blend μ_β ∝ p^{1−β} q^β of student p and teacher q, and its exponent for a budget.

Trust-Region Behavior Blending (arXiv 2605.31159) samples from the distribution closest to the
teacher, in KL(μ‖q), among those with KL(μ‖p) ≤ ε. That is μ_β with the largest β in [0, 1] that
fits. With r = log q − log p and A(β) = log Σ p e^{βr}: KL(μ_β‖p) = βA'(β) − A(β), A' = E_μ[r],
and dKL/dβ = β Var_μ[r].

The solver works on G(β) = √(2 KL), which is nearly straight near 0 (slope √Var_p r), and
interpolates β as a cubic of G between the ends of a bracket, whose slopes come with each pass for
free. Divergences here are measured from p restricted to the teacher's support: if the teacher lacks
ids, KL starts at −log p(supp q) for β = 0⁺, and that part of the budget is spent at once.

Over a few hundred ids `blend_small.py` does the same by Newton's method in numpy, where calls cost
less; on a GPU, where a look at the host costs most, `blend_static.py`.

Shapes: N rows, V vocabulary, A rows still active. Passes over V run in torch on the inputs' device;
the few numbers per row are kept in float64 on the host, which has to count the active rows anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tandem.core.blend_passes import (
    Pair,
    blend_moments,
    by_precision,
    copy_rows,
    end_points,
    to_host,
    write_laws,
    write_top,
)
from tandem.core.blend_search import Result, search
from tandem.core.blend_small import FEW, solve_small
from tandem.core.blend_static import PASSES, POINTS, blend_static, fused
from tandem.core.bracket import Rows


@dataclass(frozen=True, slots=True)
class BlendSolution:
    """exponent [*] in [0, 1]; kl [*] = KL(μ‖p) in nats; logp [*, V] normalised log μ; passes [*]
    int64, passes over V that the row's search took after the end-point pass."""

    exponent: Tensor
    kl: Tensor
    logp: Tensor
    passes: Tensor


@torch.no_grad()
def solve_blend(
    *, student_logp: Tensor, teacher_logp: Tensor, budget: float | Tensor
) -> BlendSolution:
    """The blend of largest exponent β in [0, 1] with KL(μ_β‖p) ≤ ε, for each row.

    student_logp, teacher_logp: [*, V] normalised log p and log q on one vocabulary, −inf on masked
    ids. fp32 or fp64 are taken as they are; lower precisions are cast to fp32 and renormalised.
    budget: ε in nats, a number or a tensor that broadcasts to [*].

    In this order: ε ≤ 0 gives exponent 0, the student's own log-probs bit for bit; KL(q‖p) ≤ ε
    gives exponent 1, the teacher (on the student's support, renormalised); otherwise the KL spent
    is ε to within 1e-3·ε + 5e-7. For β > 0 the support is the intersection of both; where reaching
    it already costs more than ε the exponent is 0.
    Returns a `BlendSolution` in the inputs' precision (fp32 at least). No gradients.
    Source: arXiv 2605.31159 (rule); inverse cubic Hermite on √(2 KL) is ours.
    """
    student, teacher = _as_rows(student_logp, teacher_logp)
    lead = student_logp.shape[:-1]
    if student.is_cuda:
        return _static(student, teacher, budget, student_logp.shape)
    allowed = _host_rows(budget, lead)
    if np.isnan(allowed).any():
        raise ValueError("budget is nan: give a number of nats, 0 for the student alone")
    few = student.device.type == "cpu" and student.shape[-1] <= FEW
    solve = _solve_few if few and student.dtype == torch.float32 else _solve_all
    result, logp = solve(student, teacher, allowed)
    return BlendSolution(
        exponent=_to_device(result.exponent, logp).view(lead),
        kl=_to_device(result.spent, logp).view(lead),
        logp=logp.view(student_logp.shape),
        passes=torch.from_numpy(result.passes.astype(np.int64)).view(lead).to(logp.device),
    )


@torch.no_grad()
def blend_logp(
    *, student_logp: Tensor, teacher_logp: Tensor, exponent: float | Tensor
) -> tuple[Tensor, Tensor]:
    """(log μ_β [*, V], KL(μ_β‖p) [*] in nats) for a given exponent β in [0, 1].

    student_logp, teacher_logp: [*, V] as for `solve_blend`. exponent: a number or a tensor that
    broadcasts to [*]. Exponent 0 returns the student bit for bit; exponent 1 the teacher on the
    student's support, renormalised. A row whose supports are disjoint has no blend, and is the
    student whatever the exponent. Raises ValueError for an exponent outside [0, 1]; on a GPU, where
    the host would have to wait to see it, such a row's law is not a number.
    """
    student, teacher = _as_rows(student_logp, teacher_logp)
    lead = student_logp.shape[:-1]
    if student.is_cuda:
        rows = exponent.broadcast_to(lead).reshape(-1) if isinstance(exponent, Tensor) else exponent
        law, spent = blend_static(student, teacher, rows)
        return law.view(student_logp.shape), spent.view(lead)
    wanted = _host_rows(exponent, lead)
    if not ((wanted >= 0) & (wanted <= 1)).all():
        wrong = wanted[~((wanted >= 0) & (wanted <= 1))][0]
        raise ValueError(f"exponent {wrong:g} is outside [0, 1]: choose a weight in that range")
    logp = torch.empty_like(student, memory_format=torch.contiguous_format)
    spent = _blend_rows(student, end_points(student, teacher, room=logp), wanted)
    return logp.view(student_logp.shape), _to_device(spent, logp).view(lead)


def _static(
    student: Tensor, teacher: Tensor, budget: float | Tensor, shape: torch.Size
) -> BlendSolution:
    """On a GPU: always the same work, which never waits for the host."""
    lead = shape[:-1]
    if not isinstance(budget, Tensor):
        budget = student.new_full((), budget)  # a number would be compiled into the kernels
    rows = budget.broadcast_to(lead).reshape(-1)
    exponent, spent, logp = fused()(student, teacher, rows)
    return BlendSolution(
        exponent=exponent.view(lead),
        kl=spent.view(lead),
        logp=logp.view(shape),
        passes=torch.full(lead, PASSES * POINTS, device=logp.device),
    )


def _solve_few(student: Tensor, teacher: Tensor, allowed: Rows) -> tuple[Result, Tensor]:
    """Over few ids: the quick way, and the other one for the rows that it leaves."""
    small = solve_small(student, teacher, allowed)
    result, logp = Result(small.exponent, small.kl, small.passes), torch.from_numpy(small.law)
    if not small.settled.all():
        left = np.flatnonzero(~small.settled)
        at = torch.from_numpy(left)
        found, logp[at] = _solve_all(student[at], teacher[at], allowed[left])
        result.exponent[left], result.spent[left] = found.exponent, found.spent
        result.passes[left] += found.passes
    return result, logp


def _solve_all(student: Tensor, teacher: Tensor, allowed: Rows) -> tuple[Result, Tensor]:
    """What is found for N rows, and their laws [N, V]."""
    logp = torch.empty_like(student, memory_format=torch.contiguous_format)
    return _solve_rows(student, end_points(student, teacher, room=logp), allowed), logp


def _solve_rows(p: Tensor, pair: Pair, allowed: Rows) -> Result:
    """Solve N rows and write their laws; p [N, V] is the student before any restriction."""
    result = Result(*(np.zeros(len(p)) for _ in range(3)))
    room = _room(allowed, pair)
    blended = (allowed > 0) & (room > 0)
    at_top = blended & (pair.top_kl <= room)
    result.exponent[at_top] = 1.0
    result.spent[at_top] = (pair.top_kl + pair.lost)[at_top]
    for rows, dtype in by_precision(pair, blended & ~at_top):
        search(pair, rows, room=room, allowed=allowed, dtype=dtype, result=result)
    write_top(pair, at_top)
    copy_rows(p, result.exponent == 0.0, pair)
    return result


def _blend_rows(p: Tensor, pair: Pair, beta: Rows) -> Rows:
    """Blend N rows at given exponents and write their laws; the KL each costs, [N]."""
    spent = np.zeros(len(p))
    possible = (beta > 0) & np.isfinite(pair.lost)
    at_top = possible & (beta == 1)
    spent[at_top] = (pair.top_kl + pair.lost)[at_top]
    for rows, dtype in by_precision(pair, possible & ~at_top):
        log_z, mean, _ = blend_moments(pair, rows, beta[rows], dtype=dtype)
        inside = beta[rows] * mean - log_z + pair.log_mass[rows]
        spent[rows] = np.maximum(inside, 0.0) + pair.lost[rows]
        write_laws(pair, rows, beta[rows], log_z, dtype=dtype)
    write_top(pair, at_top)
    copy_rows(p, ~possible, pair)
    return spent


def _room(allowed: Rows, pair: Pair) -> Rows:
    """The budget left once the common support is paid for; nothing is left where it is empty."""
    possible = np.isfinite(pair.lost)
    return np.where(possible, allowed - np.where(possible, pair.lost, 0.0), 0.0)


def _as_rows(student_logp: Tensor, teacher_logp: Tensor) -> tuple[Tensor, Tensor]:
    """Both as [N, V] in one precision: fp64 if either is, else fp32."""
    assert student_logp.shape == teacher_logp.shape, "student and teacher share one vocabulary"
    double = torch.float64 in (student_logp.dtype, teacher_logp.dtype)
    dtype = torch.float64 if double else torch.float32
    shape = math.prod(student_logp.shape[:-1]), student_logp.shape[-1]
    both = []
    for logp in (student_logp, teacher_logp):
        exact = logp.dtype in (torch.float32, torch.float64)
        # Rounded log-probs no longer sum to one, by far more than the budget.
        logp = logp.to(dtype) if exact else torch.log_softmax(logp.to(dtype), -1)
        both.append(logp.reshape(shape))
    return both[0], both[1]


def _host_rows(value: float | Tensor, lead: torch.Size) -> Rows:
    """A number or tensor, broadcast to the leading shape, as [N] on the host."""
    if isinstance(value, Tensor):
        return to_host(value.detach().broadcast_to(lead).reshape(-1))
    return np.full(math.prod(lead), float(value))


def _to_device(per_row: Rows, like: Tensor) -> Tensor:
    return torch.from_numpy(per_row).to(like.device, like.dtype)
