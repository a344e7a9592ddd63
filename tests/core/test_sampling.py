"""The two-level inverse CDF: the right cell, the right law, never an id without mass."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.core.counter import uniform
from tandem.core.sampling import BLOCK, ONE_LEVEL, sample

INF = math.inf
LOWEST, HIGHEST = 2.0**-24, 1 - 2.0**-24
SIZES = [1, 2, 20, 500, ONE_LEVEL, ONE_LEVEL + 1, 5 * BLOCK, 20_011]


def counter_uniforms(count: int, *, seed: int = 0) -> Tensor:
    return uniform(seed, torch.arange(count), torch.zeros(count, dtype=torch.int64), 0)


def random_logp(rows: int, size: int, *, seed: int = 0, masked: float = 0.0) -> Tensor:
    """[rows, size] fp32, some ids masked (never all)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, size, generator=generator)
    off = torch.rand(rows, size, generator=generator) < masked
    off[torch.arange(rows), torch.randint(size, (rows,), generator=generator)] = False
    return logits.masked_fill(off, -INF).log_softmax(-1)


def test_each_uniform_falls_in_its_cell_of_a_law_worked_by_hand() -> None:
    logp = torch.tensor([0.2, 0.0, 0.3, 0.5]).log()
    u = torch.tensor([0.1, 0.19, 0.21, 0.49, 0.51, 0.99])
    assert sample(logp.expand(6, 4), u).tolist() == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("size", SIZES)
def test_the_chosen_cell_of_the_float64_cumulative_law_holds_the_uniform(size: int) -> None:
    rows = 200
    logp, u = random_logp(rows, size, masked=0.3), counter_uniforms(rows)
    ids = sample(logp, u)
    mass = logp.double().exp()
    upper = (mass.cumsum(-1) / mass.sum(-1, keepdim=True))[torch.arange(rows), ids]
    width = mass[torch.arange(rows), ids] / mass.sum(-1)
    # fp32 exponentials and block sums move a cell's ends by a few units of rounding.
    assert (u.double() <= upper + 1e-6).all()
    assert (u.double() >= upper - width - 1e-6).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [0.0, 0.5, 0.999])
def test_an_id_without_mass_is_never_returned(size: int, masked: float) -> None:
    logp = random_logp(64, size, seed=size, masked=masked)
    # Masked ends tempt the first and the last cell; ids that underflow have no fp32 mass either.
    if size > 4:
        logp[::2, [0, -1]] = -INF
        logp[::2, [1, -2]] = -200.0
        logp[::2, size // 2] = -1.0
    for u in (LOWEST, 0.5, HIGHEST):
        ids = sample(logp, torch.full((64,), u))
        assert (logp.gather(1, ids[:, None]).exp() > 0).all()
        assert (ids >= 0).all() and (ids < size).all()


@pytest.mark.parametrize("size", [20, 5 * BLOCK, 20_011])
def test_a_law_sure_of_one_id_returns_it_for_every_uniform(size: int) -> None:
    for where in {0, 1, BLOCK - 1, BLOCK, size // 2, size - 1} & set(range(size)):
        logp = torch.full((3, size), -INF)
        logp[:, where] = 0.0
        assert sample(logp, torch.tensor([LOWEST, 0.5, HIGHEST])).tolist() == [where] * 3


@pytest.mark.parametrize("size", [7, ONE_LEVEL + 100])
def test_samples_follow_the_law_by_chi_square(size: int) -> None:
    count = 100_000
    logp = random_logp(1, size, seed=3, masked=0.2)
    chunk = 5_000
    u = counter_uniforms(count, seed=5)
    ids = torch.cat([sample(logp.expand(chunk, -1), part) for part in u.split(chunk)])
    expected = logp[0].double().exp() * count
    observed = torch.bincount(ids, minlength=size).double()
    # Cells expected fewer than 20 times are pooled into one.
    large = expected >= 20
    expected = torch.cat([expected[large], expected[~large].sum()[None]])
    observed = torch.cat([observed[large], observed[~large].sum()[None]])
    keep = expected > 0
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum().item()
    freedom = int(keep.sum()) - 1
    assert abs(statistic - freedom) / math.sqrt(2 * freedom) < 4


@pytest.mark.parametrize("size", [20, 5 * BLOCK + 3])
def test_a_draw_does_not_depend_on_the_other_rows(size: int) -> None:
    logp, u = random_logp(50, size), counter_uniforms(50)
    together = sample(logp, u)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sample(logp[order], u[order]), together[order])
    assert sample(logp[7:8], u[7:8]).item() == together[7].item()


def test_a_constant_added_to_log_probs_does_not_matter() -> None:
    logp, u = random_logp(100, 5 * BLOCK), counter_uniforms(100)
    assert (sample(logp + 2.0, u) == sample(logp, u)).float().mean() > 0.99


def test_higher_uniforms_give_higher_ids() -> None:
    logp = random_logp(1, 20_011).expand(500, -1)
    ids = sample(logp, counter_uniforms(500).sort().values)
    assert (ids.diff() >= 0).all()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 3 * ONE_LEVEL),
    masked=st.floats(0, 1),
    u=st.floats(LOWEST, HIGHEST, width=32),
)
def test_every_draw_has_mass(seed: int, size: int, masked: float, u: float) -> None:
    logp = random_logp(1, size, seed=seed, masked=masked)
    assert logp[0, sample(logp, torch.tensor([u]))] > -INF


@pytest.mark.parametrize("size", [20, 5 * BLOCK])
def test_no_rows_draw_nothing(size: int) -> None:
    ids = sample(torch.zeros(0, size), torch.zeros(0))
    assert ids.shape == (0,) and ids.dtype == torch.int64


@pytest.mark.parametrize("bad", [-INF, math.nan])
@pytest.mark.parametrize("size", [20, 5 * BLOCK])
def test_a_row_without_mass_or_with_nan_stops_the_run(bad: float, size: int) -> None:
    logp = random_logp(3, size)
    logp[1] = bad
    with pytest.raises(AssertionError, match="has no mass, or is nan"):
        sample(logp, counter_uniforms(3))
