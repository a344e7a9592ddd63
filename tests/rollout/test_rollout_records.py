"""What a rollout records is what whole, uncached forwards of both models say."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from rollout_models import (
    CLOCK,
    EVERYTHING,
    assert_near,
    engine_of,
    generate,
    llama,
    pair,
    qwen3,
    ragged,
    sampled,
    speakers,
    uncached_logp,
)
from torch import Tensor

from tandem.behaviours import FixedBudgetBlend, Student, Teacher, TrustRegionBlend
from tandem.behaviours.base import Law
from tandem.core.divergences import entropy, kl
from tandem.models.speaker import Speaker
from tandem.types import Author, Clock, Request, Rollout, Sampling, SignalSpec

BLEND = FixedBudgetBlend(budget=0.1)


def assert_true(rollouts: list[Rollout], student: Speaker, teacher: Speaker) -> None:
    """Both models' recorded log-probs equal uncached ones."""
    for rollout in rollouts:
        ids, request = rollout.ids.tolist(), rollout.request
        p = sampled(uncached_logp(student, request.student_ids, ids), rollout)
        q = sampled(uncached_logp(teacher, request.teacher_ids, ids), rollout)
        assert_near(rollout.student_logp, p)
        assert_near(rollout.teacher_logp, q)


def test_cached_log_probs_equal_uncached_ones_on_ragged_batches() -> None:
    student, teacher = pair()
    rollouts = generate(engine_of(student, teacher), ragged(17, size=13), BLEND)
    assert {len(r) for r in rollouts} > {1, 12}
    assert_true(rollouts, student, teacher)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_either_attention_and_either_family_may_be_student_or_teacher(attention: str) -> None:
    changes: dict[str, Any] = {"attn_implementation": attention}
    student, teacher = speakers(
        llama(5, vocabulary=13, **changes), qwen3(6, vocabulary=13, **changes), size=13
    )
    rollouts = generate(engine_of(student, teacher), ragged(9, size=13), BLEND)
    assert_true(rollouts, student, teacher)


prompts = st.lists(st.integers(1, 12), min_size=1, max_size=9).map(tuple)


@settings(max_examples=25, deadline=None)
@given(
    both=st.lists(st.tuples(prompts, prompts), min_size=1, max_size=9),
    slots=st.integers(1, 5),
    longest=st.integers(1, 9),
    seed=st.integers(0, 2**63),
)
def test_any_ragged_prompts_are_scored_as_uncached(
    both: list[tuple[tuple[int, ...], tuple[int, ...]]], slots: int, longest: int, seed: int
) -> None:
    student, teacher = pair()
    requests = [Request(i, p, q) for i, (p, q) in enumerate(both)]
    sampling = Sampling(max_new_tokens=longest)
    engine = engine_of(student, teacher, slots=slots)
    rollouts = generate(engine, requests, BLEND, sampling=sampling, seed=seed)
    assert [r.request for r in rollouts] == requests
    for rollout in rollouts:
        ids = rollout.ids.tolist()
        assert 0 not in ids[:-1] and 1 <= len(ids) <= longest
        assert rollout.ended == ("eos" if ids[-1] == 0 else "length")
        assert ids[-1] == 0 or len(ids) == longest
    assert_true(rollouts, student, teacher)


def test_every_part_of_the_signal_is_the_teacher_s_at_that_prefix() -> None:
    student, teacher = pair()
    for r in generate(engine_of(student, teacher), ragged(9, size=13), BLEND, record=EVERYTHING):
        ids, signal = r.ids.tolist(), r.signal
        p = uncached_logp(student, r.request.student_ids, ids)
        q = uncached_logp(teacher, r.request.teacher_ids, ids)
        assert signal.covers(EVERYTHING)
        assert signal.student_topk_ids is not None and signal.teacher_topk_ids is not None
        assert signal.student_topk_ids.dtype == torch.int64
        assert torch.equal(signal.student_topk_ids, p.topk(3).indices)
        assert torch.equal(signal.teacher_topk_ids, q.topk(2).indices)
        assert_near(signal.student_topk_logp, q.gather(1, p.topk(3).indices))
        assert_near(signal.teacher_topk_logp, q.topk(2).values)
        assert_near(signal.sampled_logp, r.teacher_logp, atol=0.0)
        assert_near(signal.entropy, entropy(q))
        assert_near(r.student_entropy, entropy(p))
        assert signal.hidden is not None
        found = torch.log_softmax(teacher.logits(signal.hidden), -1)
        assert_near(found, q)


def test_the_law_and_what_it_spent_are_those_of_the_behaviour() -> None:
    student, teacher = pair()
    for r in generate(engine_of(student, teacher), ragged(9, size=13), BLEND):
        ids = r.ids.tolist()
        p = uncached_logp(student, r.request.student_ids, ids)
        q = uncached_logp(teacher, r.request.teacher_ids, ids)
        tilted = (1 - r.stats["exponent"])[:, None] * p + r.stats["exponent"][:, None] * q
        mu = torch.log_softmax(tilted, -1)
        assert_near(r.behaviour_logp, sampled(mu, r), atol=1e-4)
        assert_near(r.stats["kl_spent"], kl(log_p=mu, log_q=p), atol=1e-4)
        assert set(r.author.tolist()) == {Author.BLEND}


def test_a_signal_keeps_only_what_was_asked_for() -> None:
    student, teacher = pair()
    (rollout,) = generate(engine_of(student, teacher), ragged(1, size=13), BLEND)
    signal = rollout.signal
    parts = (signal.sampled_logp, signal.student_topk_ids, signal.entropy, signal.hidden)
    assert parts == (None,) * 4 and rollout.student_entropy is None
    assert rollout.teacher_logp is not None


def test_student_rollouts_choose_the_support_and_leave_the_teacher_s_part_open() -> None:
    student, teacher = pair()
    spec = SignalSpec(sampled=True, student_topk=4, teacher_topk=2, dense=True)
    for r in generate(engine_of(student, teacher), ragged(5, size=13), Student(), record=spec):
        p = uncached_logp(student, r.request.student_ids, r.ids.tolist())
        assert r.signal.student_topk_ids is not None
        assert torch.equal(r.signal.student_topk_ids, p.topk(4).indices)
        assert r.signal.student_topk_logp is None and r.signal.teacher_topk_ids is None
        assert r.teacher_logp is None and r.signal.sampled_logp is None and r.signal.hidden is None
        assert torch.equal(r.behaviour_logp, r.student_logp)
        assert set(r.author.tolist()) == {Author.STUDENT}


def test_temperature_reshapes_the_recorded_law_and_not_the_student() -> None:
    student, teacher = pair()
    sampling = Sampling(max_new_tokens=12, temperature=0.5)
    for r in generate(
        engine_of(student, teacher), ragged(5, size=13), Student(), sampling=sampling
    ):
        p = uncached_logp(student, r.request.student_ids, r.ids.tolist())
        assert_near(r.student_logp, sampled(p, r))
        assert_near(r.behaviour_logp, sampled(torch.log_softmax(p / 0.5, -1), r))


def test_temperature_zero_takes_the_likeliest_token_with_certainty() -> None:
    student, teacher = pair()
    sampling = Sampling(max_new_tokens=12, temperature=0.0)
    for r in generate(
        engine_of(student, teacher), ragged(5, size=13), Teacher(), sampling=sampling
    ):
        q = uncached_logp(teacher, r.request.teacher_ids, r.ids.tolist())
        assert torch.equal(r.ids, q.argmax(-1))
        assert torch.equal(r.behaviour_logp, torch.zeros(len(r)))


def test_rollouts_carry_the_policy_version_and_may_meet_autograd() -> None:
    student, teacher = pair()
    (rollout,) = generate(
        engine_of(student, teacher), ragged(1, size=13), BLEND, policy_version=5, record=EVERYTHING
    )
    assert rollout.policy_version == 5
    assert torch.equal(rollout.tokens().policy_version, torch.full((len(rollout),), 5))
    weight = torch.ones(len(rollout), requires_grad=True)
    assert rollout.signal.hidden is not None and rollout.signal.student_topk_logp is not None
    total = (weight * rollout.student_logp * rollout.signal.hidden.sum(-1)).sum()
    (total + (weight[:, None] * rollout.signal.student_topk_logp).sum()).backward()
    assert weight.grad is not None


def test_recorded_bf16_models_are_scored_in_fp32() -> None:
    student, teacher = pair()
    torch.nn.Module.to(student.model, dtype=torch.bfloat16)
    rollouts = generate(engine_of(student, teacher), ragged(5, size=13), BLEND)
    assert all(r.student_logp.dtype == torch.float32 for r in rollouts)
    for r in rollouts:
        p = sampled(uncached_logp(student, r.request.student_ids, r.ids.tolist()), r)
        # bf16 keeps 8 bits: logits near 10 are known to 0.04, and the cache rounds elsewhere.
        assert_near(r.student_logp, p, atol=0.5)


def test_annealing_follows_the_clock() -> None:
    student, teacher = pair()
    engine, requests = engine_of(student, teacher), ragged(6, size=13)
    annealed = TrustRegionBlend(budget=0.2, warmup_steps=4)
    half = generate(engine, requests, annealed, clock=Clock(step=2, total_steps=10))
    same = generate(engine, requests, FixedBudgetBlend(budget=0.1))
    assert CLOCK.step == 0
    for a, b in zip(half, same, strict=True):
        assert torch.equal(a.ids, b.ids) and torch.equal(a.behaviour_logp, b.behaviour_logp)


def test_a_support_of_one_id_is_a_column_of_its_own() -> None:
    student, teacher = pair()
    spec = SignalSpec(student_topk=1, teacher_topk=1)
    for rollout in generate(engine_of(student, teacher), ragged(3, size=13), BLEND, record=spec):
        ids, signal = rollout.ids.tolist(), rollout.signal
        p = uncached_logp(student, rollout.request.student_ids, ids)
        q = uncached_logp(teacher, rollout.request.teacher_ids, ids)
        assert signal.student_topk_ids is not None and signal.teacher_topk_ids is not None
        assert torch.equal(signal.student_topk_ids, p.topk(1).indices)
        assert torch.equal(signal.teacher_topk_ids, q.topk(1).indices)
        assert_near(signal.student_topk_logp, q.gather(1, p.topk(1).indices))
        assert_near(signal.teacher_topk_logp, q.topk(1).values)
        assert rollout.student_logp.shape == rollout.stats["kl_spent"].shape == (len(rollout),)


class TellsPosition(Student):
    """A behaviour that notes the position it is told."""

    def __call__(self, *, position: Tensor, **known: Any) -> Law:
        return Law(known["student_logp"], {"position": position.float()})


def test_a_behaviour_is_told_each_tokens_place_in_its_response() -> None:
    engine = engine_of(*pair(), slots=3)
    for rollout in generate(engine, ragged(9, size=13), TellsPosition()):
        assert rollout.stats["position"].tolist() == list(range(len(rollout)))
