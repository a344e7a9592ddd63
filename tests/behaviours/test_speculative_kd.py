"""The law of one token of speculative distillation."""

from __future__ import annotations

import math

import pytest
import torch
from laws import law, pair, probabilities

from oracles import behaviours as oracle
from tandem.behaviours import SpeculativeKD
from tandem.behaviours.speculative_kd import likeliest


def test_by_hand_what_the_teacher_rejects_is_spread_as_the_teacher_speaks() -> None:
    # K = {1}: 1/4 of p stays, and the other 3/4 go to q = (1/4, 1/2, 1/4).
    p = torch.tensor([[0.5, 0.25, 0.25]]).log()
    q = torch.tensor([[0.25, 0.5, 0.25]]).log()
    actual = law(SpeculativeKD(top_k=1, teacher_temperature=1.0), p, q)
    assert actual.logp.exp()[0].tolist() == pytest.approx([3 / 16, 10 / 16, 3 / 16], abs=1e-6)
    assert actual.stats["replaced"].item() == pytest.approx(3 / 4, abs=1e-6)
    # At temperature ½ the replacements are (1/6, 4/6, 1/6).
    cold = law(SpeculativeKD(top_k=1, teacher_temperature=0.5), p, q)
    assert cold.logp.exp()[0].tolist() == pytest.approx([1 / 8, 3 / 4, 1 / 8], abs=1e-6)
    assert cold.stats["replaced"].item() == pytest.approx(3 / 4, abs=1e-6)


@pytest.mark.parametrize("top_k", [1, 3, 15, 39])
@pytest.mark.parametrize("temperature", [0.2, 0.6, 1.0])
def test_the_law_is_that_of_the_oracle(top_k: int, temperature: float) -> None:
    p, q = pair(1)
    actual = law(SpeculativeKD(top_k=top_k, teacher_temperature=temperature), p, q)
    rows = zip(probabilities(actual.logp), probabilities(p), probabilities(q), strict=True)
    for n, (mu, a, b) in enumerate(rows):
        expected, replaced = oracle.speculative(a, b, top_k, temperature)
        assert mu == pytest.approx(expected, abs=1e-6)
        assert actual.stats["replaced"][n].item() == pytest.approx(replaced, abs=1e-6)
        assert actual.stats["kl_spent"][n].item() == pytest.approx(oracle.kl(expected, a), abs=2e-6)


def test_of_equal_ids_at_the_edge_the_smaller_are_accepted() -> None:
    logp = torch.tensor([[3.0, 1.0, 2.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    assert likeliest(logp, 3).int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert likeliest(logp, 4).int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
    # Ids without mass are equal too.
    masked = torch.tensor([[-math.inf, 0.0, -math.inf, -math.inf]])
    assert likeliest(masked, 2).int().tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("k", [1, 5, 17, 300])
def test_with_many_equal_ids_there_are_exactly_k_and_those_of_the_oracle(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    logp = torch.randint(0, 6, (8, 300), generator=generator).float()
    for row, q in zip(likeliest(logp, k), logp.tolist(), strict=True):
        assert set(row.nonzero()[:, 0].tolist()) == oracle.likeliest(q, k)


def test_a_teacher_that_accepts_every_id_leaves_the_student_bit_for_bit() -> None:
    p, q = pair(2)
    actual = law(SpeculativeKD(top_k=40, teacher_temperature=0.2), p, q)
    assert torch.equal(actual.logp, p)
    assert actual.stats["replaced"].tolist() == actual.stats["kl_spent"].tolist() == [0.0] * len(p)
    # All with mass is as good as all.
    assert torch.equal(law(SpeculativeKD(top_k=38, teacher_temperature=0.2), p, q).logp, p)


def test_a_student_that_is_rejected_altogether_is_the_teacher() -> None:
    p = torch.tensor([[0.0, 0.0, 1.0]]).log()
    q = torch.tensor([[0.5, 0.3, 0.2]]).log()
    actual = law(SpeculativeKD(top_k=2, teacher_temperature=1.0), p, q)
    torch.testing.assert_close(actual.logp, q)
    assert actual.stats["replaced"].item() == 1.0
    assert actual.stats["kl_spent"].item() == math.inf


def test_a_cold_teacher_replaces_by_its_likeliest_id() -> None:
    p, q = pair(3)
    actual = law(SpeculativeKD(top_k=1, teacher_temperature=1e-3), p, q)
    certain = torch.nn.functional.one_hot(q.argmax(-1), q.shape[-1]).float()
    torch.testing.assert_close(actual.logp.exp(), certain, atol=1e-6, rtol=0.0)
    assert not actual.logp.isnan().any()


def test_tiny_chances_of_replacement_are_told_with_all_their_digits() -> None:
    # 1 − Σ_K p would be 0 or an ulp in fp32.
    p = torch.log_softmax(torch.tensor([[0.0, -30.0, -31.0]]), -1)
    q = torch.tensor([[0.9, 0.06, 0.04]]).log()
    actual = law(SpeculativeKD(top_k=1, teacher_temperature=1.0), p, q)
    replaced = math.exp(-30.0) + math.exp(-31.0)
    assert actual.stats["replaced"].item() == pytest.approx(replaced, rel=1e-5)
    assert actual.logp[0, 2].item() == pytest.approx(math.log(0.04 * replaced), abs=1e-4)


def test_more_ids_than_there_are_is_refused() -> None:
    p, q = pair(4)
    with pytest.raises(ValueError) as caught:
        law(SpeculativeKD(top_k=41, teacher_temperature=1.0), p, q)
    assert str(caught.value) == (
        "behaviour.top_k is 41, but the models share 40 ids: lower it to that or less"
    )
