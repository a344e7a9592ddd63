"""Settled tokens follow the law, whatever drafted them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tandem.core.speculative import residual_mass, settle

SIZE, ROWS, WIDTH = 6, 60_000, 3


def distributions(seed: int, *, masked: bool = False) -> tuple[Tensor, Tensor]:
    """log p and log μ at WIDTH prefixes, [WIDTH, SIZE] each; with ids that either lacks."""
    generator = torch.Generator().manual_seed(seed)
    p, law = torch.randn(2, WIDTH, SIZE, generator=generator) * 1.5
    if masked:
        p[:, 1], law[:, 4] = -torch.inf, -torch.inf
    return torch.log_softmax(p, -1), torch.log_softmax(law, -1)


def settled(p: Tensor, law: Tensor, **rest: Tensor) -> tuple[Tensor, Tensor]:
    """Many rows at the same prefixes."""
    generator = torch.Generator().manual_seed(0)
    drafted = torch.stack(
        [torch.multinomial(row.exp(), ROWS, replacement=True, generator=generator) for row in p], 1
    )
    accept, residual = torch.rand(2, ROWS, WIDTH, generator=generator).clamp(1e-7, 1 - 1e-7)
    shape = (ROWS, WIDTH, SIZE)
    return settle(
        drafted=drafted,
        proposal_logp=p.expand(shape),
        law_logp=law.expand(shape),
        accept=accept,
        residual=residual,
        **{name: value.expand(shape) for name, value in rest.items()},
    )


def chi_square(ids: Tensor, law: Tensor) -> float:
    """Of ids [n] against log-probs [SIZE], in standard deviations."""
    possible = law > -torch.inf
    counts = torch.bincount(ids, minlength=SIZE).double()
    assert not counts[~possible].any(), "an id without mass was settled"
    expected = law.exp().double()[possible] * len(ids)
    freedom = len(expected) - 1
    return (
        float(((counts[possible] - expected) ** 2 / expected).sum() - freedom)
        / (2 * freedom) ** 0.5
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_settled_position_follows_its_law(seed: int, masked: bool) -> None:
    p, law = distributions(seed, masked=masked)
    ids, stayed = settled(p, law)
    for j in range(WIDTH):
        reached = ids[stayed >= j, j]
        assert len(reached) > 1_000
        assert abs(chi_square(reached, law[j])) < 4.5


def test_a_draft_stays_as_often_as_the_two_laws_overlap() -> None:
    p, law = distributions(3)
    _, stayed = settled(p, law)
    overlap = torch.minimum(p[0].exp(), law[0].exp()).sum()
    assert float((stayed >= 1).double().mean()) == pytest.approx(float(overlap), abs=0.008)


def test_a_rule_of_its_own_keeps_and_replaces() -> None:
    p, q = distributions(4)
    keeps = q >= q.median(-1, keepdim=True).values
    rejected = p.exp().masked_fill(keeps, 0.0).sum(-1, keepdim=True)
    law = (p.exp() * keeps + rejected * q.exp()).log()
    ids, stayed = settled(p, law, keeps=keeps, replacement=q)
    for j in range(WIDTH):
        assert abs(chi_square(ids[stayed >= j, j], law[j])) < 4.5
    assert float((stayed == 0).double().mean()) == pytest.approx(float(rejected[0]), abs=0.008)


def test_equal_laws_settle_the_whole_draft() -> None:
    p, _ = distributions(5)
    ids, stayed = settled(p, p)
    assert (stayed == WIDTH).all() and ids.shape == (ROWS, WIDTH)


def test_where_rounding_leaves_no_residual_the_law_itself_is_drawn_from() -> None:
    p, _ = distributions(7)
    assert torch.equal(residual_mass(p, p + 1e-6), p.exp())
    _, law = distributions(7)
    mass = residual_mass(law, p)
    assert torch.equal(mass, (law.exp() - p.exp()).clamp(min=0.0))
