"""The top share of a step's values, ties and ranks included."""

from __future__ import annotations

import torch

from tandem.core.selection import top_share


def picked(values: list[float], fraction: float, among: list[bool] | None = None) -> list[bool]:
    chosen = torch.ones(len(values), dtype=torch.bool) if among is None else torch.tensor(among)
    return top_share(torch.tensor(values), among=chosen, fraction=fraction).tolist()


def test_two_of_five_at_a_share_of_0_4() -> None:
    assert picked([1.0, 0.2, 0.9, 0.5, 0.1], 0.4) == [True, False, True, False, False]


def test_the_count_is_rounded_up_and_is_at_least_one() -> None:
    assert picked([3.0, 2.0, 1.0, 0.0], 0.3) == [True, True, False, False]
    assert picked([3.0, 2.0, 1.0], 1e-9) == [True, False, False]


def test_a_product_that_is_whole_but_for_binary_rounding_is_not_rounded_up() -> None:
    assert 0.55 * 100 > 55
    assert sum(picked([float(x) for x in range(100)], 0.55)) == 55


def test_all_that_tie_at_the_threshold_are_in() -> None:
    assert picked([2.0, 1.0, 1.0, 1.0, 0.0], 0.4) == [True, True, True, True, False]


def test_a_share_of_one_takes_all_that_stand_for_selection() -> None:
    among = [True, False, True]
    assert picked([0.0, 5.0, 0.0], 1.0, among) == among


def test_values_that_do_not_stand_do_not_move_the_threshold() -> None:
    assert picked([9.0, 2.0, 1.0], 0.5, [False, True, True]) == [False, True, False]


def test_the_threshold_is_that_of_all_ranks_and_an_empty_rank_is_asked_too() -> None:
    everything = torch.tensor([4.0, 3.0, 2.0, 1.0])
    sent: list[torch.Tensor] = []

    def gather(own: torch.Tensor) -> torch.Tensor:
        sent.append(own)
        return everything

    own = everything[2:]
    every = torch.ones(2, dtype=torch.bool)
    assert top_share(own, among=every, fraction=0.75, gather=gather).tolist() == [True, False]
    none = top_share(own[:0], among=every[:0], fraction=0.75, gather=gather)
    assert none.tolist() == [] and [len(s) for s in sent] == [2, 0]


def test_no_value_anywhere_selects_nothing() -> None:
    assert picked([], 0.2) == [] and picked([1.0], 0.2, [False]) == [False]
