"""The move at the end of an update."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tandem.training.config import OptimizerSettings
from tandem.training.optimizer import make_optimizer
from tandem.training.update import apply_gradient


def moved(*, divisor: float) -> tuple[Tensor, Tensor, Tensor]:
    """A weight after one real update, after a second one without gradient, and AdamW's count."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = make_optimizer([weight], OptimizerSettings(lr=0.1, weight_decay=0.1))
    weight.grad = torch.tensor([3.0, 4.0])
    assert apply_gradient(
        optimizer, [weight], clip_norm=None, loss=1.0, divisor=2.0, step=1
    ) == pytest.approx(5.0)
    first = weight.detach().clone()
    weight.grad = torch.zeros(2)
    norm = apply_gradient(optimizer, [weight], clip_norm=1.0, loss=0.0, divisor=divisor, step=2)
    assert norm == 0.0 and weight.grad is None
    return first, weight.detach().clone(), optimizer.state[weight]["step"]


def test_a_step_without_a_single_trained_token_moves_nothing() -> None:
    before, after, count = moved(divisor=0.0)
    assert torch.equal(before, after) and int(count) == 1


def test_momentum_and_decay_move_a_step_whose_gradient_happens_to_be_zero() -> None:
    before, after, count = moved(divisor=2.0)
    assert not torch.equal(before, after) and int(count) == 2
