"""What holds for each behaviour."""

from __future__ import annotations

import pytest
import torch
from laws import law, pair
from pydantic import TypeAdapter, ValidationError

from tandem.behaviours import (
    AnyBehaviour,
    ArithmeticMixture,
    Behaviour,
    CompletionSource,
    FixedBudgetBlend,
    FixedExponentBlend,
    OffPolicyMix,
    SpeculativeKD,
    Student,
    Teacher,
    TeacherPrefix,
    TemperatureWarmup,
    TrustRegionBlend,
)
from tandem.core.counter import uniform
from tandem.core.divergences import kl
from tandem.core.sampling import sample
from tandem.types import Author, Clock

EVERY: list[Behaviour] = [
    Student(),
    TemperatureWarmup(start_temperature=0.8, warmup_steps=15),
    TrustRegionBlend(budget=0.02, warmup_steps=15),
    FixedBudgetBlend(budget=0.05),
    FixedExponentBlend(exponent=0.3),
    SpeculativeKD(top_k=3, teacher_temperature=0.6),
    ArithmeticMixture(weight=0.3),
    TeacherPrefix(),
    OffPolicyMix(),
    Teacher(),
]
# What a law says of each token, where it is not a blend at an exponent.
TOLD: dict[str, set[str]] = {
    "student": set(),
    "temperature_warmup": set(),
    "teacher_prefix": set(),
    "off_policy_mix": set(),
    "arithmetic_mixture": {"kl_spent"},
    "speculative_kd": {"kl_spent", "replaced"},
}
OVER_ALL = pytest.mark.parametrize("behaviour", EVERY, ids=lambda b: b.kind)
STEPS = [0, 7, 14, 15, 40]


def clock(step: int) -> Clock:
    return Clock(step=step, total_steps=100)


@OVER_ALL
@pytest.mark.parametrize("step", STEPS)
def test_the_law_sums_to_one_and_keeps_masked_ids_masked(behaviour: Behaviour, step: int) -> None:
    p, q = pair(1)
    logp = law(behaviour, p, q, step=step).logp
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp.exp().sum(-1), torch.ones(len(p)), atol=2e-6, rtol=0.0)
    assert (logp[:, -2:] == -torch.inf).all()
    assert logp[:, :-2].isfinite().all()


@OVER_ALL
@pytest.mark.parametrize("step", STEPS)
def test_needs_teacher_author_and_is_student_agree_with_the_law(
    behaviour: Behaviour, step: int
) -> None:
    p, q = pair(2)
    drawn = law(behaviour, p, q, step=step).logp
    assert behaviour.is_student(clock(step)) == torch.equal(drawn, p)
    if not behaviour.needs_teacher(clock(step)):
        assert torch.equal(law(behaviour, p, None, step=step).logp, drawn)
        assert behaviour.author(clock(step)) is Author.STUDENT
    else:
        assert behaviour.author(clock(step)) is not Author.STUDENT
    if behaviour.is_always_student():
        assert behaviour.is_student(clock(step))


@OVER_ALL
def test_a_behaviour_says_it_is_always_the_student_only_if_it_is(behaviour: Behaviour) -> None:
    always = all(behaviour.is_student(clock(step)) for step in range(100))
    assert behaviour.is_always_student() == always


@OVER_ALL
@pytest.mark.parametrize("step", STEPS)
def test_the_kl_told_is_that_of_the_law_from_the_student(behaviour: Behaviour, step: int) -> None:
    p, q = pair(3)
    actual = law(behaviour, p, q, step=step)
    assert set(actual.stats) == TOLD.get(behaviour.kind, {"exponent", "kl_spent"})
    if not actual.stats:
        return
    spent = kl(log_p=actual.logp.double(), log_q=p.double())
    torch.testing.assert_close(actual.stats["kl_spent"].double(), spent, atol=1e-6, rtol=1e-5)
    assert {value.shape for value in actual.stats.values()} == {(len(p),)}


@OVER_ALL
def test_where_teacher_and_student_agree_every_blend_is_the_student(behaviour: Behaviour) -> None:
    p, _ = pair(4)
    actual = law(behaviour, p, p.clone()).logp
    if isinstance(behaviour, TemperatureWarmup | SpeculativeKD):
        # Sampled sharper; or its rare tokens replaced by others of the same law.
        assert not torch.allclose(actual, p)
    else:
        torch.testing.assert_close(actual, p, atol=1e-6, rtol=0.0)


@OVER_ALL
def test_rows_and_leading_shape_do_not_mix(behaviour: Behaviour) -> None:
    p, q = pair(5, rows=6)
    whole = law(behaviour, p, q)
    for n in range(6):
        alone = law(behaviour, p[n : n + 1], q[n : n + 1])
        torch.testing.assert_close(alone.logp[0], whole.logp[n], atol=1e-6, rtol=0.0)
    square = behaviour(
        student_logp=p.view(2, 3, -1),
        teacher_logp=q.view(2, 3, -1),
        clock=clock(0),
        position=torch.zeros(2, 3, dtype=torch.int64),
    )
    torch.testing.assert_close(square.logp.view_as(p), whole.logp, atol=1e-6, rtol=0.0)
    for name, value in square.stats.items():
        torch.testing.assert_close(value.flatten(), whole.stats[name], atol=1e-6, rtol=1e-6)


@OVER_ALL
def test_a_permuted_vocabulary_permutes_the_law(behaviour: Behaviour) -> None:
    p, q = pair(6)
    order = torch.randperm(p.shape[1], generator=torch.Generator().manual_seed(0))
    expected = law(behaviour, p, q).logp[:, order]
    actual = law(behaviour, p[:, order], q[:, order]).logp
    # The blend solver stops within its tolerance, and sums in another order here.
    torch.testing.assert_close(actual.exp(), expected.exp(), atol=1e-4, rtol=0.0)


@OVER_ALL
def test_tokens_drawn_from_the_law_appear_as_often_as_it_says(behaviour: Behaviour) -> None:
    p, q = pair(7, rows=1, vocabulary=12)
    logp = law(behaviour, p, q).logp
    n = 20_000
    u = uniform(11, torch.arange(n), torch.zeros(n, dtype=torch.int64), kind=0)
    counts = torch.bincount(sample(logp.expand(n, -1), u), minlength=12).double()
    mu = logp[0].double().exp()
    assert (counts[-2:] == 0).all()
    z = (counts - n * mu)[:-2] / (n * mu * (1 - mu)).sqrt()[:-2]
    assert z.abs().max() < 4


@OVER_ALL
def test_only_a_behaviour_that_gives_has_completions_and_they_open_responses(
    behaviour: Behaviour,
) -> None:
    sequence = torch.arange(64)
    given = behaviour.given(clock(0), sequence=sequence, limit=9, seed=1)
    assert given.dtype == torch.int64 and given.shape == sequence.shape
    assert behaviour.gives() == bool(given.any())
    source = behaviour.completion_source()
    assert source == (CompletionSource("teacher") if behaviour.gives() else None)


@OVER_ALL
def test_a_behaviour_states_its_law_and_its_source_in_one_line(behaviour: Behaviour) -> None:
    for text in (behaviour.equation, behaviour.source):
        assert text and "\n" not in text


@OVER_ALL
def test_a_behaviour_reads_back_from_its_own_dump_by_its_kind(behaviour: Behaviour) -> None:
    read = TypeAdapter(AnyBehaviour).validate_python(behaviour.model_dump())
    assert type(read) is type(behaviour) and read == behaviour


def test_a_behaviour_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Student().kind = "teacher"  # type: ignore[assignment]
