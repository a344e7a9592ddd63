"""TrustRegion token by token: numbers by hand, and the gate."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from trust_region_forms import CLOCK, K, batch, run

from oracles import trust_region as oracle
from tandem.contract.enumeration import make_world, score_once
from tandem.core.counter import uniform
from tandem.objectives import ReverseKL, TrustRegion
from tandem.objectives.sampled import drawn
from tandem.objectives.trust_region_gate import TrustGate, log_rho
from tandem.types import Draw, TeacherSignal, TokenBatch

LN2, LN25 = math.log(2.0), math.log(2.5)


def by_hand(objective: TrustRegion, token: int, gate: float) -> tuple[float, list[float]]:
    """Value and gradient of one token: p = (1/2, 1/4, 1/4), q = (1/4, 1/8, 5/8)."""
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    log_q = torch.tensor([[0.25, 0.125, 0.625]], dtype=torch.float64).log()
    one, ids = torch.zeros(1, dtype=torch.int64), torch.tensor([token])
    log_p = logits[0, token][None]
    tokens = TokenBatch(ids, one, one, log_p, log_p, one, one, one.bool())
    tokens = replace(tokens, gate=torch.tensor([gate]))
    signal = TeacherSignal(
        sampled_logp=log_q[0, token][None],
        teacher_topk_ids=torch.tensor([[2]]),
        teacher_topk_logp=log_q[:, 2:],
    )
    loss, gradient = score_once(objective, logits, tokens, signal, torch.ones(1), CLOCK)
    return loss.value.item(), gradient[0].tolist()


# ------------------------------------------------------------------ numbers by hand

# Token 0 has q/p = 1/2, so the gate opens below 1/2. Trusted: value ln 2, gradient ln 2 (e_0 − p).
TRUSTED = (LN2, [LN2 / 2, -LN2 / 4, -LN2 / 4])
# An outlier: 5/8 ln(5/2) on the teacher's likeliest token 2, gradient 5/8 p − 5/8 e_2.
OUTLIER = (0.625 * LN25, [0.3125, 0.15625, -0.46875])


@pytest.mark.parametrize(
    "gate, expected", [(0.3, TRUSTED), (0.499, TRUSTED), (0.5, OUTLIER), (0.7, OUTLIER)]
)
def test_the_gate_opens_below_q_over_p(gate: float, expected: tuple[float, list[float]]) -> None:
    value, gradient = by_hand(TrustRegion(top_k=1), 0, gate)
    assert value == pytest.approx(expected[0], abs=1e-15)
    assert gradient == pytest.approx(expected[1], abs=1e-15)


def test_a_token_that_the_teacher_likes_better_is_always_trusted() -> None:
    value, gradient = by_hand(TrustRegion(top_k=1), 2, 0.999)
    assert value == pytest.approx(-LN25, abs=1e-15)
    assert gradient == pytest.approx([LN25 / 2, LN25 / 4, -0.75 * LN25], abs=1e-15)


def test_the_positive_branch_doubles_it_and_leaves_the_others_alone() -> None:
    value, gradient = by_hand(TrustRegion(top_k=1, positive_branch="add"), 2, 0.999)
    assert value == pytest.approx(-2 * LN25, abs=1e-15)
    assert gradient == pytest.approx([LN25, LN25 / 2, -1.5 * LN25], abs=1e-15)
    value, gradient = by_hand(TrustRegion(top_k=1, positive_branch="add"), 0, 0.3)
    assert (value, gradient) == (pytest.approx(TRUSTED[0]), pytest.approx(TRUSTED[1]))


def test_the_expected_gate_weighs_both_outcomes() -> None:
    value, gradient = by_hand(TrustRegion(gate="expected", top_k=1), 0, 0.9)
    assert value == pytest.approx((TRUSTED[0] + OUTLIER[0]) / 2, abs=1e-15)
    mean = [(a + b) / 2 for a, b in zip(TRUSTED[1], OUTLIER[1], strict=True)]
    assert gradient == pytest.approx(mean, abs=1e-15)


def test_an_outlier_is_masked_or_gets_the_clipped_reward() -> None:
    assert by_hand(TrustRegion(outlier="mask"), 0, 0.7) == (0.0, [0.0, 0.0, 0.0])
    for gate, expected in [(0.3, TRUSTED), (0.7, (0.5, [0.25, -0.125, -0.125]))]:
        value, gradient = by_hand(TrustRegion(outlier="clip", floor=-0.5), 0, gate)
        assert value == pytest.approx(expected[0], abs=1e-15)
        assert gradient == pytest.approx(expected[1], abs=1e-15)


def test_without_a_gate_the_floor_decides() -> None:
    # log q/p of token 0 is −ln 2 = −0.693: below a floor of −0.5, above one of −0.7.
    masked = TrustRegion(gate="none", outlier="mask", floor=-0.5)
    assert by_hand(masked, 0, 0.1) == (0.0, [0.0, 0.0, 0.0])
    kept = TrustRegion(gate="none", outlier="mask", floor=-0.7)
    assert by_hand(kept, 0, 0.9)[0] == pytest.approx(LN2, abs=1e-15)
    clipped = TrustRegion(gate="none", outlier="clip", floor=-0.5)
    assert by_hand(clipped, 0, 0.1) == (0.5, pytest.approx([0.25, -0.125, -0.125]))


# ------------------------------------------------------------------ the gate


def test_the_trusted_reward_never_falls_below_minus_1_over_e() -> None:
    rule = TrustGate(gate="expected", outlier="mask", floor=None, positive_branch=False)
    ratio = torch.linspace(-30.0, 5.0, 100_001, dtype=torch.float64)
    reward, outlier = rule.expected(ratio)
    assert reward.min().item() == pytest.approx(-1 / math.e, abs=1e-7)
    assert ratio[reward.argmin()].item() == pytest.approx(-1.0, abs=1e-3)
    assert ((outlier >= 0) & (outlier <= 1)).all()


def test_the_share_of_outliers_is_the_total_variation_between_the_models() -> None:
    world = make_world(1, prefixes=8)
    z, q = world.student_logits, world.teacher_logp
    objective = TrustRegion(gate="expected", top_k=K, support="full")
    _, tokens, signal = batch(objective, 1, rows=8)
    for n in range(8):
        one = slice(n, n + 1)
        share, count = run(objective, z[one], signal[one], tokens[one])[2].metrics["outlier_share"]
        exact = oracle.total_variation(z[n].tolist(), q[n].tolist())
        assert (share.item(), count.item()) == (pytest.approx(exact, abs=1e-14), 1)
    trusted = TrustRegion().gate_probability(student_logp=world.drawn_from, teacher_logp=q)
    assert trusted is not None
    rate = (world.drawn_from.exp() * (1 - trusted)).sum(-1)
    variation = 0.5 * (world.drawn_from.exp() - q.exp()).abs().sum(-1)
    torch.testing.assert_close(rate, variation)


def test_gates_from_the_counter_open_as_often_as_they_should() -> None:
    count = 20_000
    sequence, position = torch.arange(count) // 100, torch.arange(count) % 100
    gate = uniform(0, sequence, position, Draw.GATE)
    rule = TrustGate(gate="sampled", outlier="mask", floor=None, positive_branch=False)
    for ratio in (-3.0, -0.7, -0.05):
        chance = rule.shares(torch.tensor([ratio]))[0].item()
        z = ((gate < chance).sum().item() - count * chance) / math.sqrt(
            count * chance * (1 - chance)
        )
        assert abs(z) < 4


def test_tokens_trusted_by_the_draw_are_scored_as_the_reverse_kl_scores_them() -> None:
    objective = TrustRegion(top_k=K)
    world, tokens, signal = batch(objective, 2, rows=30)
    chance = objective.gate_probability(
        student_logp=tokens.student_logp, teacher_logp=drawn(signal)
    )
    assert chance is not None and tokens.gate is not None
    opens = tokens.gate < chance
    assert 0 < int(opens.sum()) < 30
    ours = run(objective, world.student_logits, signal, tokens)
    base = run(ReverseKL(support="sampled"), world.student_logits, signal, tokens)
    torch.testing.assert_close(ours[0][opens], base[0][opens])
    torch.testing.assert_close(ours[1][opens], base[1][opens])
    assert not torch.isclose(ours[0][~opens], base[0][~opens]).any()


def test_the_expected_gate_is_the_mean_of_the_two_draws_token_by_token() -> None:
    for outlier in ("forward_kl", "clip", "mask"):
        top_k = K if outlier == "forward_kl" else None
        sampled = TrustRegion(gate="sampled", outlier=outlier, top_k=top_k)
        expected = TrustRegion(gate="expected", outlier=outlier, top_k=top_k)
        world, tokens, signal = batch(sampled, 3)
        chance = log_rho(log_p=tokens.student_logp, log_q=drawn(signal)).clamp(max=0).exp()
        opened = run(sampled, world.student_logits, signal, replace(tokens, gate=chance * 0.5))
        closed = replace(tokens, gate=chance + (1 - chance) * 0.5)
        shut = run(sampled, world.student_logits, signal, closed)
        mean = run(expected, world.student_logits, signal, tokens)
        torch.testing.assert_close(mean[0], chance * opened[0] + (1 - chance) * shut[0])
        w = chance[:, None]
        torch.testing.assert_close(mean[1], w * opened[1] + (1 - w) * shut[1])


def test_the_gate_of_a_token_does_not_depend_on_the_batch_it_is_in() -> None:
    objective = TrustRegion(top_k=K)
    world, tokens, signal = batch(objective, 4, rows=40)
    tokens = replace(tokens, gate=uniform(7, tokens.sequence, tokens.position, Draw.GATE))
    whole = run(objective, world.student_logits, signal, tokens)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for part in order.split([1, 12, 27]):
        moved = tokens[part]
        again = replace(moved, gate=uniform(7, moved.sequence, moved.position, Draw.GATE))
        value, gradient, _ = run(objective, world.student_logits[part], signal[part], again)
        torch.testing.assert_close(value, whole[0][part])
        torch.testing.assert_close(gradient, whole[1][part])
