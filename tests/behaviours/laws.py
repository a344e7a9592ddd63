"""Rows of two models' log-probs, and the call that every behaviour test makes."""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.behaviours import Behaviour, Law
from tandem.types import Clock


def pair(seed: int, *, rows: int = 16, vocabulary: int = 40) -> tuple[Tensor, Tensor]:
    """fp32 log p and log q [N, V]; the last two ids are masked in both."""
    generator = torch.Generator().manual_seed(seed)
    z, noise = torch.randn(2, rows, vocabulary, generator=generator)
    z[:, -2:] = -torch.inf
    return torch.log_softmax(2 * z, -1), torch.log_softmax(2 * z + noise, -1)


def law(
    behaviour: Behaviour,
    student_logp: Tensor,
    teacher_logp: Tensor | None,
    *,
    step: int = 0,
    total_steps: int = 100,
) -> Law:
    return behaviour(
        student_logp=student_logp,
        teacher_logp=teacher_logp,
        clock=Clock(step=step, total_steps=total_steps),
        position=torch.arange(student_logp.shape[0]),
    )


def probabilities(logp: Tensor) -> list[list[float]]:
    """Rows as normalised Python floats."""
    p = logp.double().exp()
    return (p / p.sum(-1, keepdim=True)).tolist()
