"""The move at the end of an update."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tandem.training.config import OptimizerSettings
from tandem.training.optimizer import make_optimizer
from tandem.training.update import NotFinite, apply_gradient


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


@pytest.mark.parametrize(
    ("clip_norm", "moved_by"), [(None, [3.0, 4.0]), (2.0, [1.2, 1.6]), (5.5, [3.0, 4.0])]
)
def test_a_long_gradient_is_shortened_to_the_limit_and_a_short_one_stays(
    clip_norm: float | None, moved_by: list[float]
) -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    plain = torch.optim.SGD([weight], lr=1.0)
    norm = apply_gradient(plain, [weight], clip_norm=clip_norm, loss=1.0, divisor=1.0, step=1)
    assert norm == pytest.approx(5.0), "the norm is that before clipping"
    torch.testing.assert_close(-weight.detach(), torch.tensor(moved_by))


@pytest.mark.parametrize(
    ("loss", "entry", "named"),
    [
        (math.inf, 1.0, "loss is inf"),
        (math.nan, math.nan, "loss is nan"),
        (1.0, math.nan, "gradient is nan"),
    ],
)
def test_neither_a_loss_nor_a_gradient_that_is_no_number_moves_anything(
    loss: float, entry: float, named: str
) -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, entry])
    plain = torch.optim.SGD([weight], lr=1.0)
    with pytest.raises(NotFinite, match=f"^step 7: the {named}, so training stops"):
        apply_gradient(plain, [weight], clip_norm=1.0, loss=loss, divisor=1.0, step=7)
    assert not weight.detach().any()


def test_momentum_and_decay_move_a_step_whose_gradient_happens_to_be_zero() -> None:
    before, after, count = moved(divisor=2.0)
    assert not torch.equal(before, after) and int(count) == 2
