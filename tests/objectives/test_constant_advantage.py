"""The control without a teacher: zero in expectation, and what is left of it in a sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from trust_region_forms import WEIGHTS, batch, name, run

from oracles import objectives as oracle
from tandem.behaviours import Behaviour, FixedBudgetBlend, FixedExponentBlend, Student, Teacher
from tandem.contract.enumeration import declared_gradient, expected_gradient, law_at, make_world
from tandem.objectives import ConstantAdvantage
from tandem.types import SignalSpec, TeacherSignal

NOTHING = TeacherSignal()


def test_value_and_gradient_match_the_numbers_worked_by_hand() -> None:
    # p = (1/2, 1/4, 1/4), y = 1, a = −2: value 2, gradient 2 (e_1 − p).
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    _, tokens, _ = batch(ConstantAdvantage(), 1)
    one = tokens[:1]
    one.ids[0] = 1
    value, gradient, loss = run(ConstantAdvantage(advantage=-2.0), logits, NOTHING, one)
    assert value.item() == 2.0
    assert gradient[0].tolist() == pytest.approx([-1.0, 1.5, -0.5], abs=1e-15)
    assert loss.metrics["sampled_logp"][0].item() == pytest.approx(-1.3862943611198906)


def test_each_drawn_token_is_pushed_down_as_the_oracle_says() -> None:
    world, tokens, _ = batch(ConstantAdvantage(), 2)
    z = world.student_logits
    value, gradient, _ = run(ConstantAdvantage(), z, NOTHING, tokens)
    assert value.tolist() == [1.0] * 12
    for n in range(12):
        y = int(tokens.ids[n])
        assert gradient[n].tolist() == pytest.approx(oracle.score(z[n].tolist(), {y: 1.0}))
        assert gradient[n, y] > 0


def test_its_expected_gradient_on_tokens_of_the_student_is_exactly_zero() -> None:
    world = make_world(3)
    found, value = expected_gradient(ConstantAdvantage(), world.drawn_from, world)
    assert found.abs().max() < 1e-15
    torch.testing.assert_close(value, torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("behaviour", [Teacher(), FixedExponentBlend(exponent=0.5)], ids=name)
def test_and_stays_zero_under_exact_weights(behaviour: Behaviour) -> None:
    objective = ConstantAdvantage(importance="exact")
    objective.check(behaviour, updates_per_rollout=4)
    world = make_world(4, stale=True)
    found, _ = expected_gradient(objective, law_at(behaviour, world), world)
    assert found.abs().max() < 1e-15


def test_but_not_under_truncated_or_clipped_ones() -> None:
    world = make_world(5, stale=True)
    law = law_at(Teacher(), world)
    for fields in WEIGHTS[1:]:
        found, _ = expected_gradient(ConstantAdvantage(**fields), law, world)
        assert found.abs().max() > 0.01


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("weights", WEIGHTS, ids=name)
def test_declared_is_followed(weights: dict[str, Any], stale: bool) -> None:
    objective, world = ConstantAdvantage(**weights), make_world(6, stale=stale)
    for behaviour in (Student(), Teacher(), FixedExponentBlend(exponent=0.5)):
        law = law_at(behaviour, world)
        found, _ = expected_gradient(objective, law, world)
        torch.testing.assert_close(found, declared_gradient(objective, law, world))


def test_splitting_the_batch_changes_neither_gradient_nor_metrics() -> None:
    world, tokens, _ = batch(ConstantAdvantage(), 7)
    objective = ConstantAdvantage(importance="truncated", importance_limit=1.5)
    z, weight = world.student_logits, torch.linspace(0.0, 2.0, 12, dtype=torch.float64)
    _, gradient, loss = run(objective, z, NOTHING, tokens, weight)
    cuts = [slice(0, 1), slice(1, 5), slice(5, 12)]
    parts = [run(objective, z[c], NOTHING, tokens[c], weight[c]) for c in cuts]
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), gradient)
    assert set(loss.metrics) == {"sampled_logp", "importance_weight"}
    for key, (total, count) in loss.metrics.items():
        torch.testing.assert_close(sum(p[2].metrics[key][0] for p in parts), total)
        assert sum(int(p[2].metrics[key][1]) for p in parts) == count == 11


def test_no_teacher_is_asked_for_anything() -> None:
    assert ConstantAdvantage().needs() == SignalSpec()
    assert not ConstantAdvantage().needs().reads_teacher


@pytest.mark.parametrize(
    "fields, sentence",
    [
        (
            {"advantage": 0.0},
            "advantage is 0.0, but this control pushes every drawn token down: give a number "
            "below 0, say -1.",
        ),
        (
            {"baseline": "expected"},
            "baseline expected is refused: the mean of a constant is that constant, and taking it "
            "off leaves no advantage at all: use baseline none.",
        ),
        (
            {"importance_limit": 2.0},
            "importance_limit is 2.0, but importance none has no limit: remove it, or use "
            "importance truncated.",
        ),
    ],
    ids=str,
)
def test_fields_that_make_no_sense_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ConstantAdvantage(**fields)
    (error,) = caught.value.errors()
    assert error["msg"] == f"Value error, {sentence}"


def test_an_unweighted_token_of_another_law_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        ConstantAdvantage().check(FixedBudgetBlend(budget=0.02), updates_per_rollout=1)
    assert str(caught.value) == (
        "objective constant_advantage scores the drawn token as if the student had drawn it, but "
        "behaviour fixed_budget_blend draws from another law, which biases the gradient: set "
        "importance to exact, truncated or clipped."
    )
    ConstantAdvantage().check(Student(), updates_per_rollout=1)
