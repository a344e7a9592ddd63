"""Inputs and a loss that the tests of the chunked head share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tandem.models.heads import HeadForm
from tandem.models.vocabulary import Alignment, canonicalise

N, H, R = 11, 6, 20
ALIGNMENT = Alignment(size=17, end_id=2, student_end_ids=(2, 18), teacher_end_ids=(5, 2))
WHOLE = Alignment(size=R, end_id=2, student_end_ids=(2,))


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def reverse_kl_to(target_NV: Tensor) -> Callable[[Tensor, slice], Tensor]:
    """A weighted reverse KL with as many weights as tokens: wrong rows or order would show."""
    weight = torch.linspace(0.5, 2.0, target_NV.shape[0], dtype=torch.float64)

    def score(logits: Tensor, rows: slice) -> Tensor:
        log_p = logits.log_softmax(-1)
        log_q = target_NV[rows].to(logits.dtype).log_softmax(-1)
        possible = log_p > -torch.inf
        ratio = torch.where(possible, log_p, 0) - torch.where(possible, log_q, 0)
        return ((log_p.exp() * ratio).sum(-1) * weight[rows].to(logits.dtype)).sum()

    return score


def transform_of(form: HeadForm, alignment: Alignment) -> Callable[[Tensor], Tensor]:
    def transform(raw: Tensor) -> Tensor:
        wide = raw.to(torch.promote_types(raw.dtype, torch.float32))
        own = alignment.student_end_ids
        return canonicalise(form(wide), own_end_ids=own, alignment=alignment)

    return transform
