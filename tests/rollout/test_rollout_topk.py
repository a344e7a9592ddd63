"""The two-level top-k finds what a full sort finds."""

from __future__ import annotations

import pytest
import torch

from tandem.rollout.topk import topk


@pytest.mark.parametrize("size", [16, 256, 1_000, 10_000, 10_240])
@pytest.mark.parametrize("k", [1, 3, 16])
def test_two_levels_find_the_largest_in_order(size: int, k: int) -> None:
    values = torch.randn(4, size, generator=torch.Generator().manual_seed(size))
    found, ids = topk(values, k)
    truth = values.sort(dim=-1, descending=True)
    assert torch.equal(found, truth.values[:, :k])
    assert torch.equal(ids, truth.indices[:, :k])


def test_the_largest_may_all_lie_in_one_block_or_in_the_rest_after_the_blocks() -> None:
    values = torch.zeros(2, 10_001)
    values[0, 512:528] = torch.arange(1.0, 17.0)
    values[1, 10_000] = 1.0
    assert topk(values, 16)[1][0].tolist() == list(range(527, 511, -1))
    assert topk(values, 16)[1][1, 0] == 10_000


def test_masked_ids_come_last() -> None:
    values = torch.full((1, 9_000), -torch.inf)
    values[0, [17, 8_000]] = torch.tensor([1.0, 2.0])
    found, ids = topk(values, 3)
    assert ids[0, :2].tolist() == [8_000, 17] and found[0, 2] == -torch.inf
    assert ids[0].unique().numel() == 3
