"""Cross-entropy on the teacher's tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from trust_region_forms import CLOCK, batch, name, run

from oracles import objectives as oracle
from oracles import trust_region as single
from tandem.behaviours import (
    Behaviour,
    FixedBudgetBlend,
    FixedExponentBlend,
    Student,
    Teacher,
    TemperatureWarmup,
    TrustRegionBlend,
)
from tandem.contract.enumeration import declared_gradient, expected_gradient, law_at, make_world
from tandem.core.divergences import entropy, kl
from tandem.objectives import Supervised
from tandem.objectives.base import StepTokens
from tandem.types import Author, SignalSpec, TeacherSignal, TokenBatch

NOTHING = TeacherSignal()


def written(seed: int) -> tuple[Tensor, TokenBatch]:
    """12 tokens by the student, a blend and the teacher in turn; the first six were given."""
    world, tokens, _ = batch(Supervised(), seed)
    author = torch.arange(12) % 3
    return world.student_logits, replace(tokens, author=author, forced=torch.arange(12) < 6)


def test_value_and_gradient_match_the_numbers_worked_by_hand() -> None:
    # p = (1/2, 1/4, 1/4), y = 1: −log p = 2 ln 2, gradient p − e_1.
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    tokens = replace(written(1)[1][:1], ids=torch.tensor([1]))
    value, gradient, _ = run(Supervised(), logits, NOTHING, tokens)
    assert value.item() == pytest.approx(2 * math.log(2), abs=1e-15)
    assert gradient[0].tolist() == pytest.approx([0.5, -0.75, 0.25], abs=1e-15)


def test_each_token_has_the_oracles_value_and_gradient() -> None:
    z, tokens = written(2)
    value, gradient, _ = run(Supervised(), z, NOTHING, tokens)
    for n in range(12):
        expected = single.imitation(z[n].tolist(), int(tokens.ids[n]), 1.0)
        assert value[n].item() == pytest.approx(expected[0], abs=1e-14)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-14)


def test_only_the_teachers_tokens_count_drawn_or_given() -> None:
    _, tokens = written(3)
    plan = Supervised().plan(StepTokens(tokens, NOTHING, CLOCK))
    assert plan.weight.tolist() == [0.0, 0.0, 1.0] * 4
    assert plan.denominator == 4


def test_drawn_by_the_teacher_its_gradient_is_that_of_the_forward_kl() -> None:
    world = make_world(4)
    law = world.teacher_logp
    found, value = expected_gradient(Supervised(), law, world, author=Author.TEACHER)
    for n in range(len(law)):
        z, q = world.student_logits[n].tolist(), law[n].tolist()
        assert found[n].tolist() == pytest.approx(oracle.forward_kl_gradient(z, q), abs=1e-12)
    log_p = torch.log_softmax(world.student_logits, -1)
    torch.testing.assert_close(value, kl(log_p=law, log_q=log_p) + entropy(law))


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("behaviour", [Teacher(), Student()], ids=name)
def test_declared_is_followed_where_the_tokens_are_the_teachers(
    behaviour: Behaviour, stale: bool
) -> None:
    world = make_world(5, stale=stale)
    law = law_at(behaviour, world)
    found, _ = expected_gradient(Supervised(), law, world, author=Author.TEACHER)
    torch.testing.assert_close(found, declared_gradient(Supervised(), law, world))


def test_tokens_of_others_give_no_gradient_at_all() -> None:
    world = make_world(6)
    for author in (Author.STUDENT, Author.BLEND):
        found, _ = expected_gradient(Supervised(), world.teacher_logp, world, author=author)
        assert (found == 0).all()


def test_at_teacher_equal_student_the_mean_gradient_is_0_and_the_value_the_entropy() -> None:
    world = make_world(7)
    law = world.drawn_from
    found, value = expected_gradient(Supervised(), law, world, author=Author.TEACHER)
    assert found.abs().max() < 1e-14
    torch.testing.assert_close(value, entropy(law))


def test_splits_and_rows_of_weight_0_change_nothing() -> None:
    z, tokens = written(8)
    weight = Supervised().plan(StepTokens(tokens, NOTHING, CLOCK)).weight.double()
    value, gradient, _ = run(Supervised(), z, NOTHING, tokens, weight)
    parts = [run(Supervised(), z[c], NOTHING, tokens[c], weight[c]) for c in _cuts()]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), value)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), gradient)
    assert (gradient[weight == 0] == 0).all()
    assert (gradient[weight != 0] != 0).all()


def _cuts() -> list[slice]:
    return [slice(0, 1), slice(1, 5), slice(5, 12)]


def test_a_token_that_the_student_cannot_say_is_infinite_and_has_no_gradient() -> None:
    z, tokens = written(9)
    z[0, tokens.ids[0]] = -torch.inf
    value, gradient, _ = run(Supervised(), z, NOTHING, tokens)
    assert value[0] == torch.inf
    assert (gradient[0] == 0).all()
    assert gradient.isfinite().all()


def test_no_teacher_is_asked_for_anything() -> None:
    assert Supervised().needs() == SignalSpec()
    assert not Supervised().needs().reads_teacher
    assert Supervised().value_name == "cross_entropy"


@pytest.mark.parametrize(
    "behaviour",
    [
        Student(),
        TemperatureWarmup(start_temperature=0.9, warmup_steps=15),
        TrustRegionBlend(budget=0.02, warmup_steps=15),
        FixedBudgetBlend(budget=0.02),
        FixedExponentBlend(exponent=0.5),
    ],
    ids=name,
)
def test_a_behaviour_without_tokens_of_the_teacher_is_refused(behaviour: Behaviour) -> None:
    with pytest.raises(ValueError) as caught:
        Supervised().check(behaviour, updates_per_rollout=1)
    assert str(caught.value) == (
        f"objective supervised imitates the teacher's own tokens, but behaviour {behaviour.kind} "
        "yields none, so nothing would be trained: use behaviour teacher, or one that opens "
        "responses with a given completion, such as teacher_prefix."
    )


def test_the_teacher_and_given_completions_are_accepted() -> None:
    class Opening(Student):
        def gives(self) -> bool:
            return True

    for behaviour in (Teacher(), Opening()):
        Supervised().check(behaviour, updates_per_rollout=4)
