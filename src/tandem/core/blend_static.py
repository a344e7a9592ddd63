"""The blend for a budget without a branch and without a look at the host: for CUDA graphs.

Three passes of eight equally spaced exponents close in on each row's, a cubic of √(2 KL) gives it,
and a last pass prices it. The work is the same whatever the rows hold, so that it can be captured
once and replayed. On a CPU `blend.py` is quicker, which stops early.

On a GPU the sums of a pass are fused by torch.compile (`fused`), so that the vocabulary is read
once for all of them; TORCHDYNAMO_DISABLE=1 leaves it as it stands here. It has not run on a GPU
yet.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

# Log-probs below this are masks, −inf or a dtype's lowest number.
MASKED = -1e15
POINTS, PASSES = 8, 3
RELATIVE, ABSOLUTE = 2e-3, 5e-7
# A slope this small belongs to a row whose models agree; it is never divided by.
FLAT = 1e-12


@torch.no_grad()
def solve_static(
    student_logp: Tensor, teacher_logp: Tensor, budget: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """exponent [N], KL spent [N] and log μ [N, V] for fp32 log-probs [N, V]; see `solve_blend`.

    A row with a number that is none comes out as none: nothing waits for the host to refuse it.
    The KL spent is at most ε + 2e-3·ε + 5e-7. It is ε to within as much wherever √(2 KL) is smooth
    on the scale of 1/729 of the exponents; two models that are sure of different tokens by some
    hundred nats may be given less.
    """
    # Not a number is no mask: it stays, and what comes out is not a number either.
    on = ~((student_logp <= MASKED) | (teacher_logp <= MASKED))
    p = student_logp.masked_fill(~on, -torch.inf)
    q = teacher_logp.masked_fill(~on, -torch.inf)
    mass_p, mass_q = p.logsumexp(-1, keepdim=True), q.logsumexp(-1, keepdim=True)
    together = torch.isfinite(mass_p) & torch.isfinite(mass_q)
    broken = mass_p.isnan() | mass_q.isnan() | _column(budget, mass_p).isnan()
    p = torch.where(together, p - mass_p, p)
    q = torch.where(together, q - mass_q, q)
    r = torch.where(on, q - p, 0.0)
    weight_p = p.exp()
    mean_p = (weight_p * r).sum(-1, keepdim=True)
    r = torch.where(on, r - mean_p, 0.0)  # the KL does not change, and its rounding is less
    lost = torch.where(together, -mass_p, torch.inf).clamp(min=0.0)
    room = _column(budget, lost) - lost
    top_kl = (q.exp() * r).sum(-1, keepdim=True) + mean_p
    low = torch.zeros_like(room)
    high = torch.ones_like(room)
    target = (2.0 * room.clamp(min=0.0)).sqrt()
    ends = _Ends(
        low, low, (weight_p * r * r).sum(-1, keepdim=True).sqrt(), high, *_top(q, r, top_kl)
    )
    for _ in range(PASSES):
        ends = _narrowed(p, weight_p, r, ends, target)
    beta = ends.inverse(target)
    log_z, mean, _ = _moments(p, weight_p, r, beta)
    spent = beta * mean - log_z
    fits = spent <= room + RELATIVE * room.clamp(min=0.0) + ABSOLUTE
    beta = torch.where(fits, beta, ends.low)
    low_kl = ends.low_g * ends.low_g / 2.0
    log_z = torch.where(fits, log_z, _moments(p, weight_p, r, beta)[0])
    spent = torch.where(fits, spent, low_kl)
    searched = p + beta * r - log_z
    at_top = together & (room > 0.0) & (top_kl <= room)
    none = ~together | (room <= 0.0) | (beta <= 0.0) & ~at_top
    beta = torch.where(at_top, 1.0, beta)
    spent = torch.where(at_top, top_kl, spent).clamp(min=0.0) + lost
    law = torch.where(at_top, q, searched)
    law = torch.where(none, student_logp, torch.where(on, law, -torch.inf))
    zero = torch.zeros_like(beta)
    beta, spent = torch.where(none, zero, beta), torch.where(none, zero, spent)
    beta, spent, law = (x.masked_fill(broken, torch.nan) for x in (beta, spent, law))
    return beta[:, 0], spent[:, 0], law


@cache
def fused() -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """`solve_static` compiled, for any number of rows; the budget has to be a tensor [N]."""
    return torch.compile(solve_static, dynamic=True)


@torch.no_grad()
def blend_static(
    student_logp: Tensor, teacher_logp: Tensor, exponent: float | Tensor
) -> tuple[Tensor, Tensor]:
    """log μ_β [N, V] and KL(μ_β‖p) [N] at given exponents in [0, 1]; see `blend_logp`. An exponent
    beyond gives what is not a number: nothing waits for the host to refuse it."""
    on = ~((student_logp <= MASKED) | (teacher_logp <= MASKED))
    mass = student_logp.masked_fill(~on, -torch.inf).logsumexp(-1, keepdim=True)
    beta = _column(exponent, mass)
    beta = torch.where((beta >= 0.0) & (beta <= 1.0), beta, torch.nan)
    r = torch.where(on, teacher_logp - student_logp, 0.0)
    # The law and its KL do not change, and their rounding is less.
    weight = torch.where(on, student_logp - mass, -torch.inf).exp()
    r = torch.where(on, r - (weight * r).sum(-1, keepdim=True), 0.0)
    tilted = torch.where(on, student_logp + beta * r, -torch.inf)
    log_z = tilted.logsumexp(-1, keepdim=True)
    law = torch.where(on, tilted - log_z, -torch.inf)
    spent = beta * (law.exp() * r).sum(-1, keepdim=True) - log_z
    none = (mass == -torch.inf) | (beta <= 0.0)
    law = torch.where(none, student_logp, law)
    return law, torch.where(none, torch.zeros_like(spent), spent.clamp(min=0.0))[:, 0]


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """A number, or one of each row, as a column [N, 1]."""
    if isinstance(value, Tensor):
        return value.to(like.dtype).expand(like.shape[:1]).unsqueeze(-1)
    return torch.full_like(like, value)


class _Ends:
    """A bracket [N, 1] of each row's exponent, with G = √(2 KL) and dG/dβ at both ends."""

    def __init__(
        self,
        low: Tensor,
        low_g: Tensor,
        low_s: Tensor,
        high: Tensor,
        high_g: Tensor,
        high_s: Tensor,
    ) -> None:
        self.low, self.low_g, self.low_s = low, low_g, low_s
        self.high, self.high_g, self.high_s = high, high_g, high_s

    def inverse(self, g: Tensor) -> Tensor:
        """β at G = g, by the cubic whose values and slopes at the ends are the bracket's."""
        width = self.high_g - self.low_g
        safe = width.clamp(min=FLAT)
        t = ((g - self.low_g) / safe).clamp(0.0, 1.0)
        rise = self.high - self.low
        m0 = safe / self.low_s.clamp(min=FLAT)
        m1 = safe / self.high_s.clamp(min=FLAT)
        # Monotone: slopes beyond three times the chord would overshoot.
        m0, m1 = torch.minimum(m0, 3.0 * rise), torch.minimum(m1, 3.0 * rise)
        cubic = (
            self.low * (1 + 2 * t) * (1 - t) ** 2
            + self.high * t * t * (3 - 2 * t)
            + m0 * t * (1 - t) ** 2
            - m1 * t * t * (1 - t)
        )
        return torch.where(width > FLAT, cubic, self.low).clamp(min=self.low, max=self.high)


def _top(q: Tensor, r: Tensor, top_kl: Tensor) -> tuple[Tensor, Tensor]:
    """G and dG/dβ at β = 1, where dKL/dβ = β Var."""
    weight = q.exp()
    mean = (weight * r).sum(-1, keepdim=True)
    variance = (weight * r * r).sum(-1, keepdim=True) - mean * mean
    g = (2.0 * top_kl.clamp(min=0.0)).sqrt()
    return g, variance.clamp(min=0.0) / g.clamp(min=FLAT)


def _moments(p: Tensor, weight_p: Tensor, r: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log Z, E[r] and Var[r] [N, 1] of p e^{βr} / Z."""
    tilted = torch.addcmul(p, beta.expand_as(r), r).exp()
    # Z − 1 as a sum of differences: small exponents leave it far below the rounding of Z.
    excess = (tilted - weight_p).sum(-1, keepdim=True)
    z = 1.0 + excess
    mean = (tilted * r).sum(-1, keepdim=True) / z
    variance = (tilted * r * r).sum(-1, keepdim=True) / z - mean * mean
    return excess.log1p(), mean, variance.clamp(min=0.0)


def _narrowed(p: Tensor, weight_p: Tensor, r: Tensor, ends: _Ends, target: Tensor) -> _Ends:
    """The bracket between two neighbours of the points inside, and its ends."""
    step = (ends.high - ends.low) / (POINTS + 1)
    low, low_g, low_s = ends.low, ends.low_g, ends.low_s
    high, high_g, high_s = ends.high, ends.high_g, ends.high_s
    for k in range(1, POINTS + 1):
        beta = ends.low + k * step
        log_z, mean, variance = _moments(p, weight_p, r, beta)
        g = (2.0 * (beta * mean - log_z).clamp(min=0.0)).sqrt()
        slope = beta * variance / g.clamp(min=FLAT)
        below = g <= target
        # The last point below is the low end; the first one above, the high end.
        low = torch.where(below, beta, low)
        low_g, low_s = torch.where(below, g, low_g), torch.where(below, slope, low_s)
        first = ~below & (high > beta)
        high = torch.where(first, beta, high)
        high_g, high_s = torch.where(first, g, high_g), torch.where(first, slope, high_s)
    return _Ends(low, low_g, low_s, high, high_g, high_s)
