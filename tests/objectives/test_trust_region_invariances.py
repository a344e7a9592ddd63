"""What must not change the result of TrustRegion, what it reads and what it reports."""

from __future__ import annotations

import pytest
import torch
from trust_region_forms import EVERY_FORM, K, batch, name, run

from tandem.objectives import TrustRegion
from tandem.objectives.sampled import drawn
from tandem.types import SignalSpec, TeacherSignal

OVER_FORMS = pytest.mark.parametrize("objective", EVERY_FORM, ids=name)


@OVER_FORMS
def test_splitting_the_batch_changes_neither_value_nor_gradient_nor_metrics(
    objective: TrustRegion,
) -> None:
    world, tokens, signal = batch(objective, 5)
    z, weight = world.student_logits, torch.linspace(0.5, 2.0, 12, dtype=torch.float64)
    value, gradient, loss = run(objective, z, signal, tokens, weight)
    cuts = [slice(0, 1), slice(1, 5), slice(5, 12)]
    parts = [run(objective, z[c], signal[c], tokens[c], weight[c]) for c in cuts]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), value)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), gradient)
    for key, (total, count) in loss.metrics.items():
        torch.testing.assert_close(sum(p[2].metrics[key][0] for p in parts), total)
        assert sum(int(p[2].metrics[key][1]) for p in parts) == count == 12


@OVER_FORMS
def test_rows_of_weight_0_leave_metrics_and_the_other_rows_alone(objective: TrustRegion) -> None:
    world, tokens, signal = batch(objective, 6)
    keep = torch.arange(12) % 3 != 0
    whole = run(objective, world.student_logits, signal, tokens, keep.double())
    alone = run(objective, world.student_logits[keep], signal[keep], tokens[keep])
    torch.testing.assert_close(whole[0][keep], alone[0])
    torch.testing.assert_close(whole[1][keep], alone[1])
    assert (whole[1][~keep] == 0).all()
    for key, part in alone[2].metrics.items():
        torch.testing.assert_close(whole[2].metrics[key], part)


@OVER_FORMS
def test_a_constant_added_to_the_logits_changes_nothing(objective: TrustRegion) -> None:
    world, tokens, signal = batch(objective, 7)
    expected = run(objective, world.student_logits, signal, tokens)
    actual = run(objective, world.student_logits - 11.0, signal, tokens)
    torch.testing.assert_close(actual[:2], expected[:2], atol=1e-12, rtol=0.0)


# ------------------------------------------------------------------ what is read and told


def test_needs_asks_for_what_each_form_reads() -> None:
    assert TrustRegion().needs() == SignalSpec(sampled=True, teacher_topk=64, gate=True)
    assert TrustRegion(gate="none", outlier="clip").needs() == SignalSpec(sampled=True)
    assert TrustRegion(gate="expected", support="full").needs() == SignalSpec(
        teacher_topk=64, dense=True
    )
    assert TrustRegion(gate="expected", outlier="mask", support="student_topk").needs() == (
        SignalSpec(student_topk=16)
    )
    assert TrustRegion(outlier="mask", baseline="expected").needs() == SignalSpec(
        sampled=True, dense=True, gate=True
    )


def test_a_support_recorded_larger_than_asked_for_is_cut() -> None:
    objective = TrustRegion(gate="expected", support="student_topk", support_top_k=2, top_k=2)
    larger = TrustRegion(gate="expected", support="student_topk", support_top_k=5, top_k=4)
    world, tokens, signal = batch(objective, 8)
    expected = run(objective, world.student_logits, signal, tokens)
    wide = batch(larger, 8)[2]
    torch.testing.assert_close(run(objective, world.student_logits, wide, tokens)[:2], expected[:2])


def test_metrics_of_the_drawn_token_are_shares_reward_and_weight() -> None:
    objective = TrustRegion(top_k=K, importance="exact")
    world, tokens, signal = batch(objective, 9)
    loss = run(objective, world.student_logits, signal, tokens)[2]
    ratio = drawn(signal) - tokens.student_logp
    assert tokens.gate is not None
    opens = tokens.gate < ratio.exp()
    expected = {
        "outlier_share": (~opens).double(),
        "reward": torch.where(opens, ratio, 0.0),
        "log_ratio": -ratio,
        "importance_weight": tokens.student_logp.exp() * world.student_logits.shape[1],
        "guidance_share": torch.zeros(12, dtype=torch.float64),
    }
    assert set(loss.metrics) == set(expected)
    for key, values in expected.items():
        torch.testing.assert_close(loss.metrics[key][0], values.sum())


@pytest.mark.parametrize("objective", [o for o in EVERY_FORM if o.gate == "expected"], ids=name)
def test_logits_that_come_from_bf16_lose_no_more_than_the_naive_bf16_form(
    objective: TrustRegion,
) -> None:
    world, tokens, signal = batch(objective, 10, rows=256)
    z = world.student_logits

    def cast(dtype: torch.dtype) -> TeacherSignal:
        return signal._map(lambda part: part.to(dtype) if part.is_floating_point() else part)

    truth = run(objective, z, signal, tokens)
    ours = run(objective, z.bfloat16().float(), cast(torch.float32), tokens)
    naive = run(objective, z.bfloat16(), cast(torch.bfloat16), tokens)
    for exact, mine, rough in zip(truth[:2], ours[:2], naive[:2], strict=True):
        error = (mine.double() - exact).abs().mean()
        assert error <= (rough.double() - exact).abs().mean() + 1e-6
