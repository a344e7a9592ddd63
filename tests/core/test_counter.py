"""Counter-hash uniforms: range, golden values, uniformity and independence, no dependence on batch.

The statistical tests are deterministic (the hash has no other state), so a pass is a pass for ever.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tandem.core.counter import uniform
from tandem.types import Draw

COUNT = 200_000


def draws(
    *, seed: int = 0, sequence: int | None = None, position: int | None = None, kind: int = 0
) -> Tensor:
    """COUNT draws along whichever of sequence and position is not given."""
    index = torch.arange(COUNT)
    return uniform(
        seed,
        index if sequence is None else torch.full_like(index, sequence),
        index if position is None else torch.full_like(index, position),
        kind,
    )


def chi_square_z(counts: Tensor) -> float:
    """Wilson and Hilferty's normal score of the chi-square statistic against equal cells."""
    expected = counts.sum() / counts.numel()
    freedom = counts.numel() - 1
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def cells(u: Tensor, parts: int) -> Tensor:
    return (u.double() * parts).long()


def joint_z(u: Tensor, v: Tensor, parts: int = 16) -> float:
    counts = torch.bincount(cells(u, parts) * parts + cells(v, parts), minlength=parts**2)
    return chi_square_z(counts.double())


def scalar(value: int) -> Tensor:
    return torch.tensor(value, dtype=torch.int64)


def reference(seed: int, sequence: int, position: int, kind: int) -> float:
    """The same hash in exact Python integers, written from its description."""
    word, weyl = 2**64, 0x9E3779B97F4A7C15

    def mix(x: int) -> int:
        x %= word
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % word
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % word
        return x ^ (x >> 31)

    state = mix(mix(seed + weyl) + (kind + 1) * weyl)
    state = mix(state + sequence * weyl)
    state = mix(state + (position + 1) * weyl)
    return ((state >> 41) + 0.5) / 2**23


GOLDEN = {
    (0, 0, 0, 0): 0.7682768702507019,
    (0, 0, 1, 0): 0.5392617583274841,
    (0, 1, 0, 0): 0.12964564561843872,
    (0, 0, 0, 1): 0.9990280270576477,
    (1, 0, 0, 0): 0.3653939366340637,
    (1234, 567, 89, 2): 0.5944400429725647,
}


def test_values_do_not_change_between_versions() -> None:
    got = [
        uniform(seed, scalar(sequence), scalar(position), kind).item()
        for seed, sequence, position, kind in GOLDEN
    ]
    assert got == list(GOLDEN.values())


@pytest.mark.parametrize("seed", [0, 1, -1, 2**40 + 7, 2**64 + 3])
def test_tensor_arithmetic_equals_exact_integer_arithmetic(seed: int) -> None:
    for sequence, position, kind in [(0, 0, 0), (5, 9, 1), (2**40, 8191, 4), (2**62, 2**31, 3)]:
        got = uniform(seed, scalar(sequence), scalar(position), kind).item()
        assert got == reference(seed, sequence, position, kind)


def test_values_are_float32_strictly_inside_the_unit_interval() -> None:
    u = torch.cat([draws(seed=s) for s in range(10)])
    assert u.dtype == torch.float32
    assert u.min() > 0 and u.max() < 1
    # The ends of the range themselves, should the hash ever give all zeros or all ones.
    assert (torch.tensor(0.0) + 0.5) * 2.0**-23 > 0
    assert (torch.tensor(2.0**23 - 1) + 0.5) * 2.0**-23 < 1


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_draws_are_uniform_along_positions_and_along_sequences(seed: int) -> None:
    for u in (draws(seed=seed, sequence=3), draws(seed=seed, position=3)):
        counts = torch.bincount(cells(u, 1000), minlength=1000).double()
        assert abs(chi_square_z(counts)) < 4
        mean_z = (u.double().mean() - 0.5).item() * math.sqrt(12 * COUNT)
        assert abs(mean_z) < 4


def test_neighbouring_positions_sequences_and_seeds_are_independent() -> None:
    along = draws(sequence=0)
    assert abs(joint_z(along[:-1], along[1:])) < 4
    across = draws(position=0)
    assert abs(joint_z(across[:-1], across[1:])) < 4
    assert abs(joint_z(draws(seed=7, sequence=1), draws(seed=7, sequence=2))) < 4
    assert abs(joint_z(draws(seed=7, position=1), draws(seed=7, position=2))) < 4
    assert abs(joint_z(draws(seed=7), draws(seed=8))) < 4


def test_kinds_of_draw_at_one_position_are_independent() -> None:
    by_kind = {kind: draws(sequence=1, kind=kind) for kind in Draw}
    for first in Draw:
        for second in Draw:
            if first < second:
                assert abs(joint_z(by_kind[first], by_kind[second])) < 4


def test_swapping_the_roles_of_any_two_numbers_gives_another_draw() -> None:
    one = uniform(1, scalar(2), scalar(3), 4)
    swapped = [
        uniform(2, scalar(1), scalar(3), 4),
        uniform(1, scalar(3), scalar(2), 4),
        uniform(1, scalar(2), scalar(4), 3),
        uniform(4, scalar(2), scalar(3), 1),
    ]
    assert all(one != other for other in swapped)
    # Sequence s at position t is not sequence s + 1 at position t − 1, along whole diagonals.
    index = torch.arange(COUNT)
    assert abs(joint_z(uniform(0, index, index, 0), uniform(0, index + 1, index - 1, 0))) < 4


def test_a_draw_does_not_depend_on_the_batch_it_is_made_in() -> None:
    sequence = torch.arange(100)[:, None]
    position = torch.arange(50)[None, :]
    together = uniform(9, sequence, position, Draw.SAMPLE)
    assert together.shape == (100, 50)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        uniform(9, order, torch.full((100,), 17), Draw.SAMPLE), together[order, 17], rtol=0, atol=0
    )
    alone = uniform(9, torch.tensor([42]), torch.tensor([17]), Draw.SAMPLE)
    assert alone.item() == together[42, 17].item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_draw_does_not_depend_on_the_device() -> None:
    index = torch.arange(10_000)
    here = uniform(3, index, index * 7, Draw.ACCEPT)
    there = uniform(3, index.cuda(), (index * 7).cuda(), Draw.ACCEPT)
    assert torch.equal(here, there.cpu())
