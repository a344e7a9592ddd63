"""Metrics as (sum, count): the mean does not depend on the split."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.reduce import MetricSums


def parts_of(values: torch.Tensor, cuts: list[int]) -> list[torch.Tensor]:
    edges = [0, *sorted(cuts), len(values)]
    return [values[a:b] for a, b in pairwise(edges)]


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
)
def test_the_mean_does_not_depend_on_how_tokens_are_split(
    values: list[float], cuts: list[int]
) -> None:
    whole = torch.tensor(values)
    sums = MetricSums()
    for part in parts_of(whole, [min(c, len(values)) for c in cuts]):
        sums.add({"x": (part.double().sum(), torch.tensor(len(part)))})
    assert sums.means()["x"] == pytest.approx(whole.double().mean().item(), rel=1e-12, abs=1e-9)


def test_unequal_parts_are_weighted_by_their_counts() -> None:
    sums = MetricSums()
    sums.add({"x": (torch.tensor(10.0), torch.tensor(1)), "y": (3.0, 2.0)})
    sums.add({"x": (torch.tensor(2.0), 3)})
    assert sums.means() == {"x": 3.0, "y": 1.5}


def test_a_metric_that_counted_nothing_has_no_mean() -> None:
    sums = MetricSums()
    sums.add({"outliers": (torch.tensor(0.0), torch.tensor(0)), "x": (1.0, 1)})
    assert sums.means() == {"x": 1.0}
    assert sums.names == ("outliers", "x")


def test_adding_up_flat_tensors_equals_merging_the_accumulators() -> None:
    left, right = MetricSums(), MetricSums()
    left.add({"a": (1.0, 2.0), "b": (5.0, 5.0)})
    right.add({"a": (2.0, 4.0), "c": (7.0, 2.0)})
    names = ("a", "b", "c")
    reduced = MetricSums.from_flat(names, left.flat(names) + right.flat(names))
    left.merge(right)
    assert reduced.means() == left.means() == {"a": 0.5, "b": 1.0, "c": 3.5}


def test_an_accumulator_that_saw_no_tokens_adds_zeros() -> None:
    assert MetricSums().flat(("a", "b")).tolist() == [0.0] * 4
    assert MetricSums().flat(()).shape == (0,)


def test_a_metric_left_out_of_the_flat_tensor_is_an_error_not_a_loss() -> None:
    sums = MetricSums()
    sums.add({"a": (1.0, 1.0)})
    with pytest.raises(AssertionError, match="without a place in the flat tensor: \\['a'\\]"):
        sums.flat(("b",))


def test_sums_are_kept_in_float64_so_that_many_small_parts_do_not_stall() -> None:
    sums = MetricSums()
    sums.add({"x": (torch.tensor(2.0**25), torch.tensor(1))})
    for _ in range(100):
        sums.add({"x": (torch.tensor(1.0), torch.tensor(0))})
    assert sums.means()["x"] == 2.0**25 + 100


def test_parts_carry_no_graph() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    sums = MetricSums()
    sums.add({"x": (x * 3, 1)})
    assert not sums.flat(("x",)).requires_grad
