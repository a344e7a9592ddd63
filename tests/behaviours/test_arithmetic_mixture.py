"""The weighted mean of both laws."""

from __future__ import annotations

import math

import pytest
import torch
from laws import law, pair, probabilities

from oracles import behaviours as oracle
from tandem.behaviours import ArithmeticMixture


def test_by_hand_a_fifth_of_the_teacher() -> None:
    p, q = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.25, 0.75]]).log()
    actual = law(ArithmeticMixture(), p, q)
    assert actual.logp.exp()[0].tolist() == pytest.approx([0.65, 0.35], abs=1e-6)
    spent = 0.65 * math.log(0.65 / 0.75) + 0.35 * math.log(0.35 / 0.25)
    assert actual.stats["kl_spent"].item() == pytest.approx(spent, abs=1e-6)


@pytest.mark.parametrize("weight", [0.01, 0.2, 0.9])
def test_the_law_is_that_of_the_oracle(weight: float) -> None:
    p, q = pair(1)
    actual = law(ArithmeticMixture(weight=weight), p, q)
    rows = zip(probabilities(actual.logp), probabilities(p), probabilities(q), strict=True)
    for n, (mu, a, b) in enumerate(rows):
        expected = oracle.arithmetic(a, b, weight)
        assert mu == pytest.approx(expected, abs=1e-6)
        assert actual.stats["kl_spent"][n].item() == pytest.approx(oracle.kl(expected, a), abs=2e-6)


def test_ids_that_one_model_lacks_keep_the_others_share() -> None:
    p, q = torch.tensor([[1.0, 0.0, 0.0]]).log(), torch.tensor([[0.0, 1.0, 0.0]]).log()
    actual = law(ArithmeticMixture(weight=0.3), p, q)
    assert actual.logp.exp()[0].tolist() == pytest.approx([0.7, 0.3, 0.0], abs=1e-6)
    assert actual.stats["kl_spent"].item() == math.inf
