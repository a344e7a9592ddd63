"""Settling a block of drafted tokens so that each follows the law it should.

The student drafts y_1 … y_g, each from its own p at the prefix before it; the law μ is then known
at all g prefixes. A draft stays with probability min(1, μ(y)/p(y)); the first one that does not is
replaced by a draw from (μ − p)₊ normalised, and what was drafted after it is dropped. Each settled
token then follows μ exactly (Leviathan et al., arXiv 2211.17192). Where all g stay there is no
further token: the prefix after them has no student's law, so nothing could be drawn from μ there.

Shapes: B rows, g drafts of a row, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.core.sampling import sample, sample_mass


def settle(
    *,
    drafted: Tensor,
    proposal_logp: Tensor,
    law_logp: Tensor,
    accept: Tensor,
    residual: Tensor,
    keeps: Tensor | None = None,
    replacement: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The tokens [B, g], and how many drafts stayed [B], 0 to g. Where fewer than g did, the next
    token is the replacement and settled too; what follows it is as drafted, and does not count.

    drafted: [B, g] int64, drawn from `proposal_logp` [B, g, V]. law_logp: [B, g, V] log μ.
    accept, residual: [B, g] uniforms in (0, 1) of each position.
    keeps, replacement: a rule of the law's own, see `behaviours.base.Law`.
    """
    width = drafted.shape[1]
    here = drafted.unsqueeze(-1)
    if keeps is None:
        gain = law_logp.gather(-1, here) - proposal_logp.gather(-1, here)
        stays = accept.log() <= gain.squeeze(-1)
    else:
        stays = keeps.gather(-1, here).squeeze(-1)
    kept = stays.long().cumprod(-1).sum(-1)
    if drafted.is_cuda:
        # Which rows need a replacement is not asked: the host would have to wait for the answer.
        row, at = torch.arange(len(drafted), device=drafted.device), kept.clamp(max=width - 1)
    else:
        row = (kept < width).nonzero().squeeze(-1)
        if not len(row):
            return drafted, kept
        at = kept[row]
    u = residual[row, at]
    if replacement is None:
        drawn = sample_mass(residual_mass(law_logp[row, at], proposal_logp[row, at]), u)
    else:
        drawn = sample(replacement[row, at], u)
    ids = drafted.clone()
    ids[row, at] = torch.where(kept[row] < width, drawn, drafted[row, at])
    return ids, kept


def residual_mass(law_logp: Tensor, proposal_logp: Tensor) -> Tensor:
    """(μ − p)₊ [*, V], not normalised; μ itself where rounding left nothing of the difference: the
    two are equal there, and next to nothing is ever rejected."""
    law = law_logp.exp()
    mass = (law - proposal_logp.exp()).clamp_(min=0.0)
    return torch.where(mass.sum(-1, keepdim=True) > 0.0, mass, law)
