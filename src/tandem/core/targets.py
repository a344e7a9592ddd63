"""Targets that a student is drawn to other than the teacher itself, over the whole vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor


def veto_target(*, log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """log Q [*, V] of Q ∝ q·p^β, normalised and without gradient (Veto, arXiv 2601.07155).

    log_p, log_q: [*, V] student and teacher, −inf where there is no mass. beta >= 0; 0 gives q.
    Where the two share no id there is no such law, and −inf everywhere.
    """
    if beta == 0.0:
        return log_q.detach()
    product = log_p.detach().mul(beta).add_(log_q)
    log_z = torch.logsumexp(product, dim=-1, keepdim=True)
    return product.sub_(log_z.masked_fill_(log_z == -torch.inf, 0.0))
