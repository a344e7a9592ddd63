"""Veto's target."""

from __future__ import annotations

import math

import pytest
import torch

from oracles import shaped as oracle
from tandem.core.targets import veto_target


def test_the_target_matches_the_numbers_worked_by_hand() -> None:
    # p = (1/5, 4/5), q = (4/5, 1/5), β = 1/2: q √p is (4, 2) of 6.
    log_p = torch.tensor([[0.2, 0.8]], dtype=torch.float64).log()
    target = veto_target(log_p=log_p, log_q=log_p.flip(-1), beta=0.5)
    assert target.exp()[0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-15)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9])
def test_it_matches_the_oracle_sums_to_one_and_carries_no_gradient(beta: float) -> None:
    generator = torch.Generator().manual_seed(1)
    z, a = 2 * torch.randn(2, 6, 9, generator=generator, dtype=torch.float64)
    log_p, log_q = torch.log_softmax(z, -1).requires_grad_(), torch.log_softmax(a, -1)
    before = log_q.clone()
    target = veto_target(log_p=log_p, log_q=log_q, beta=beta)
    assert not target.requires_grad and torch.equal(log_q, before)
    torch.testing.assert_close(target.exp().sum(-1), torch.ones(6).double())
    for n in range(6):
        p, q = log_p[n].exp().tolist(), log_q[n].exp().tolist()
        expected = oracle.veto_target(p, q, beta)
        assert target[n].exp().tolist() == pytest.approx(expected, abs=1e-14)


def test_an_id_that_either_model_masks_has_no_mass_and_strangers_leave_nothing() -> None:
    log_p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()
    log_q = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]).log()
    target = veto_target(log_p=log_p, log_q=log_q, beta=0.4)
    assert target[0].tolist() == [0.0, -math.inf, -math.inf]
    assert target[1].tolist() == [-math.inf] * 3
