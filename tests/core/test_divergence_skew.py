"""The skew KL of two laws."""

from __future__ import annotations

import math

import pytest
import torch

from oracles import jsd as oracle
from tandem.core.divergences import kl, skew_kl


def laws(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, a = 2 * torch.randn(2, 8, 9, generator=generator, dtype=torch.float64)
    return torch.log_softmax(z, -1), torch.log_softmax(a, -1)


def test_two_loaded_coins_give_the_number_worked_by_hand() -> None:
    # The mixture with α = 1/2 is even: ¾ ln ³⁄₂ − ¼ ln 2.
    log_p = torch.tensor([0.75, 0.25], dtype=torch.float64).log()
    expected = 0.75 * math.log(1.5) - 0.25 * math.log(2.0)
    assert skew_kl(log_p=log_p, log_q=log_p.flip(-1), alpha=0.5).item() == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [0.1, 0.7])
def test_it_matches_the_oracle_in_both_directions(alpha: float) -> None:
    log_p, log_q = laws(1)
    forward = skew_kl(log_p=log_q, log_q=log_p, alpha=alpha)
    reverse = skew_kl(log_p=log_p, log_q=log_q, alpha=alpha)
    for n in range(len(log_p)):
        p, q = log_p[n].exp().tolist(), log_q[n].exp().tolist()
        assert forward[n].item() == pytest.approx(oracle.skew_forward(p, q, alpha).real)
        assert reverse[n].item() == pytest.approx(oracle.skew_reverse(p, q, alpha).real)


def test_without_skew_it_is_the_kl_and_with_it_missing_mass_costs_at_most_minus_log_alpha() -> None:
    log_p, log_q = laws(2)
    torch.testing.assert_close(
        skew_kl(log_p=log_p, log_q=log_q, alpha=0.0), kl(log_p=log_p, log_q=log_q)
    )
    apart = torch.tensor([1.0, 0.0]).log()
    assert skew_kl(log_p=apart, log_q=apart.flip(-1), alpha=0.1).item() == pytest.approx(
        -math.log(0.1)
    )
    assert skew_kl(log_p=apart, log_q=apart.flip(-1), alpha=0.0).item() == math.inf


@pytest.mark.parametrize("alpha", [-0.1, 1.0])
def test_a_skew_outside_its_range_is_refused(alpha: float) -> None:
    log_p, log_q = laws(3)
    with pytest.raises(ValueError) as caught:
        skew_kl(log_p=log_p, log_q=log_q, alpha=alpha)
    assert str(caught.value) == (
        f"alpha is {alpha}, but a skew lies in [0, 1), where 1 leaves nothing"
    )
