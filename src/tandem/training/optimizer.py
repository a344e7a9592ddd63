"""AdamW and its learning rate, a pure function of the step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from tandem.core.schedules import learning_rate_multiplier
from tandem.training.sections import OptimizerSettings


def make_optimizer(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> AdamW:
    """AdamW over all parameters (the decay too), as the TRB paper trains."""
    return AdamW(
        list(parameters),
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )


def allocate_state(optimizer: Optimizer) -> None:
    """Give every parameter the state that AdamW would create at its first step: all zeros.

    Makes the memory of a run known before its first step, and gives checkpoints a place to be
    read into.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def reset_state(optimizer: Optimizer) -> None:
    """Zero the moments and step counts in place: what AdamW would begin with."""
    for state in optimizer.state.values():
        for tensor in state.values():
            tensor.zero_()


def learning_rate(settings: OptimizerSettings, *, step: int, total_steps: int) -> float:
    """The rate of the update that follows `step` finished ones."""
    return settings.lr * learning_rate_multiplier(
        settings.schedule, step=step, total_steps=total_steps, warmup_steps=settings.warmup_steps
    )


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
