"""Blocks of drafts: the same tokens for every width, ends and limits inside a block, and that the
tests of the law would notice the known ways of getting it wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rollout_models import (
    BLOCKS,
    EVERYTHING,
    assert_near,
    engine_of,
    generate,
    pair,
    ragged,
    sampled,
    tokens,
    uncached_logp,
)
from test_rollout_engine import Masked
from test_rollout_law import (
    BEHAVIOURS,
    LENGTH,
    STUDENT_PROMPT,
    TAUGHT,
    TEACHER_PROMPT,
    law_of,
    pair_of_five,
    standard_score,
)
from torch import Tensor

from tandem.behaviours import Behaviour, FixedBudgetBlend, SpeculativeKD, Student, TrustRegionBlend
from tandem.rollout import Engine, block, lane
from tandem.rollout.pace import Block
from tandem.rollout.tally import Tally
from tandem.types import Clock, Request, Rollout, Sampling, SignalSpec, TeacherSignal

BLEND = FixedBudgetBlend(budget=0.1)


def assert_same(found: list[Rollout], truth: list[Rollout]) -> None:
    """The same tokens, and all that was recorded of them."""
    assert tokens(found) == tokens(truth)
    for a, b in zip(found, truth, strict=True):
        assert a.ended == b.ended and torch.equal(a.author, b.author)
        assert_near(a.behaviour_logp, b.behaviour_logp, atol=1e-4)
        assert_near(a.student_logp, b.student_logp, atol=1e-4)
        assert a.stats.keys() == b.stats.keys()
        for name in a.stats:
            assert_near(a.stats[name], b.stats[name], atol=1e-3)
        for name in TeacherSignal.__dataclass_fields__:
            one, other = getattr(a.signal, name), getattr(b.signal, name)
            assert (one is None) == (other is None)
            if one is not None and one.dtype.is_floating_point:
                assert_near(one, other, atol=1e-4)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
@pytest.mark.parametrize("block", BLOCKS[1:])
def test_tokens_and_records_do_not_depend_on_the_width(behaviour: Behaviour, block: Block) -> None:
    student, teacher = pair()
    requests = ragged(17, size=13)
    truth = generate(engine_of(student, teacher, slots=17), requests, behaviour, record=EVERYTHING)
    found = generate(
        engine_of(student, teacher, slots=5, block=block), requests, behaviour, record=EVERYTHING
    )
    assert_same(found, truth)


@pytest.mark.parametrize("block", BLOCKS)
def test_cached_log_probs_equal_uncached_ones(block: Block) -> None:
    student, teacher = pair()
    for r in generate(engine_of(student, teacher, block=block), ragged(15, size=13), BLEND):
        p = uncached_logp(student, r.request.student_ids, r.ids.tolist())
        q = uncached_logp(teacher, r.request.teacher_ids, r.ids.tolist())
        assert_near(r.student_logp, sampled(p, r))
        assert_near(r.teacher_logp, sampled(q, r))


@pytest.mark.parametrize("block", BLOCKS)
def test_without_budget_the_tokens_are_the_student_s(block: Block) -> None:
    student, teacher = pair()
    requests = ragged(15, size=13)
    alone = generate(engine_of(student, teacher), requests, Student())
    vanishing = FixedBudgetBlend(budget=1e-30)
    assert tokens(
        generate(engine_of(student, teacher, block=block), requests, vanishing)
    ) == tokens(alone)


@settings(deadline=None, max_examples=15)
@given(
    block=st.sampled_from(BLOCKS),
    slots=st.integers(1, 6),
    limits=st.lists(st.one_of(st.none(), st.integers(1, 12)), min_size=1, max_size=9),
    forced=st.lists(st.lists(st.integers(0, 10), max_size=5), min_size=9, max_size=9),
    masked=st.sets(st.integers(1, 10), max_size=3),
    seed=st.integers(0, 99),
)
@example(
    # A rounding moved the solver's last step, and with it the law by more than rounding.
    block="auto",
    slots=1,
    limits=[None] * 9,
    forced=[[], [], [0] * 4, [0] * 5, [0, 0], [0, 0], [0], [0] * 5, [10, 10, 1]],
    masked={8},
    seed=28,
)
def test_any_ragged_work_comes_out_as_one_token_at_a_time(
    block: Block,
    slots: int,
    limits: list[int | None],
    forced: list[list[int]],
    masked: set[int],
    seed: int,
) -> None:
    """Ends and limits inside blocks, given tokens, ids that nobody says."""
    student, teacher = pair(size=11, seed=1 + seed % 3)
    student, teacher = Masked(student, sorted(masked)), Masked(teacher, sorted(masked)[:1])
    requests = [
        replace(
            request,
            max_new_tokens=limit,
            forced_ids=tuple(i for i in ids if i not in masked)[: limit or 12],
        )
        for request, limit, ids in zip(
            ragged(len(limits), size=11, seed=seed), limits, forced, strict=False
        )
    ]
    tally = Tally()
    engine = engine_of(student, teacher, slots=slots, block=block)
    found = generate(engine, requests, BLEND, seed=seed, tally=tally)
    truth = generate(engine_of(student, teacher, slots=1), requests, BLEND, seed=seed)
    assert_same(found, truth)
    for rollout in found:
        assert len(rollout) <= (rollout.request.max_new_tokens or 12)
        ids = rollout.ids.tolist()
        assert 0 not in ids[:-1] and (ids[-1] == 0) == (rollout.ended == "eos")
        own = set(ids[rollout.given :])
        assert not own & masked
    assert tally.tokens == sum(len(r) - r.given for r in found)


def test_an_end_inside_an_accepted_block_ends_the_response_there() -> None:
    student, teacher = pair()
    engine = engine_of(student, teacher, slots=40, block=8)
    rollouts = generate(engine, [Request(i, (3, 4), (3, 4)) for i in range(40)], BLEND)
    inside = [r for r in rollouts if r.ended == "eos" and len(r) % 8 != 0]
    assert len(inside) > 5 and all(r.ids.tolist().count(0) == 1 for r in inside)


def test_the_tally_counts_what_happened() -> None:
    student, teacher = pair()
    requests = ragged(30, size=13)
    for width in (1, 4):
        tally = Tally()
        rollouts = generate(
            engine_of(student, teacher, slots=6, block=width), requests, BLEND, tally=tally
        )
        assert tally.tokens == sum(map(len, rollouts))
        assert tally.slot_rounds == 6 * tally.rounds >= tally.row_rounds == tally.teacher_rows
        assert 0 < tally.stayed < tally.tried
        if width == 1:
            assert tally.row_rounds == tally.tokens == tally.student_tokens == tally.tried
    alone = Tally()
    generate(engine_of(student, teacher, slots=6, block=4), requests, Student(), tally=alone)
    assert alone.teacher_rows == 0 and alone.metrics()["acceptance"] == (alone.tokens, alone.tokens)


@pytest.mark.parametrize("budget", [0.001, 0.01, 0.03])
def test_the_budget_guarantees_the_acceptance(budget: float) -> None:
    student, teacher = pair()
    tally = Tally()
    engine = engine_of(student, teacher, slots=50, block=4)
    requests = [Request(i, (3, 4), (5, 6)) for i in range(300)]
    generate(engine, requests, FixedBudgetBlend(budget=budget), tally=tally)
    least = 1.0 - (budget / 2) ** 0.5
    slack = 3 * (least * (1 - least) / tally.tried) ** 0.5
    assert tally.stayed / tally.tried > least - slack


def test_speculative_kd_keeps_by_its_own_rule() -> None:
    """Drafts outside the teacher's top-k never stay; under min(1, μ/p) some would."""
    student, teacher = pair()
    tally = Tally()
    engine = engine_of(student, teacher, slots=500)
    behaviour = SpeculativeKD(top_k=3, teacher_temperature=1.0)
    requests = [Request(i, (3, 4), (5, 6)) for i in range(3_000)]
    one = Sampling(max_new_tokens=1)
    rollouts = generate(engine, requests, behaviour, sampling=one, tally=tally)
    replaced = float(rollouts[0].stats["replaced"])
    assert 1 - tally.stayed / tally.tried == pytest.approx(replaced, abs=0.02)
    p, q = (
        uncached_logp(speaker, prompt, (0,))[0]
        for speaker, prompt in ((student, (3, 4)), (teacher, (5, 6)))
    )
    law = behaviour(
        student_logp=p[None], teacher_logp=q[None], clock=Clock(0, 10), position=torch.zeros(1)
    ).logp.exp()
    assert replaced - float((p.exp() - law).clamp(min=0.0).sum()) > 0.06, "else it shows nothing"


def test_after_the_warm_up_one_token_at_a_time_without_the_teacher() -> None:
    student, teacher = pair()
    tally = Tally()
    blend = TrustRegionBlend(budget=0.1, warmup_steps=3)
    generate(
        engine_of(student, teacher, block=8),
        ragged(5, size=13),
        blend,
        clock=Clock(3, 10),
        tally=tally,
    )
    assert tally.teacher_rows == 0 and tally.student_tokens == tally.row_rounds


# What follows runs broken variants: each has to be noticed.


def score_of(behaviour: Behaviour, *, width: int = 2) -> float:
    """How far 4,000 responses are from the law, in standard deviations."""
    requests = [Request(i, STUDENT_PROMPT, TEACHER_PROMPT) for i in range(4_000)]
    engine = engine_of(*pair_of_five(), slots=500, block=width)
    rollouts = generate(engine, requests, behaviour, sampling=Sampling(max_new_tokens=LENGTH))
    return standard_score(Counter(tuple(r.ids.tolist()) for r in rollouts), law_of(behaviour))


EXPONENT = next(b for b in TAUGHT if b.kind == "fixed_exponent_blend")


def test_replacements_from_the_student_s_law_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert abs(score_of(EXPONENT)) < 4
    right = block.settle

    def broken(**given: Any) -> tuple[Tensor, Tensor]:
        p = given["proposal_logp"]
        keeps = torch.zeros_like(p, dtype=torch.bool)
        gain = (given["law_logp"] - p).clamp(max=0.0)
        here = given["drafted"].unsqueeze(-1)
        stays = given["accept"].log() <= gain.gather(-1, here).squeeze(-1)
        keeps.scatter_(-1, here, stays.unsqueeze(-1))
        return right(**{**given, "keeps": keeps, "replacement": p})

    monkeypatch.setattr(block, "settle", broken)
    assert score_of(EXPONENT) > 8


def test_a_bonus_token_of_the_teacher_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a block that stayed whole, a token of the teacher alone: the usual bonus."""
    right = block.settle

    def broken(**given: Any) -> tuple[Tensor, Tensor]:
        ids, stayed = right(**given)
        # The last position of a block that stayed is drawn from q instead of μ.
        whole = stayed == ids.shape[1]
        q = seen[-1][:, -1]
        bonus = torch.multinomial(q.exp(), 1, generator=generator)[:, 0]
        ids = ids.clone()
        ids[:, -1] = torch.where(whole, bonus, ids[:, -1])
        return ids, stayed

    generator = torch.Generator().manual_seed(0)
    seen: list[Tensor] = []
    law = type(EXPONENT).__call__

    def watched(self: Behaviour, **given: Any) -> Any:
        seen.append(given["teacher_logp"])
        return law(self, **given)

    monkeypatch.setattr(type(EXPONENT), "__call__", watched)
    monkeypatch.setattr(block, "settle", broken)
    assert score_of(EXPONENT) > 8


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_cache_that_is_off_by_one_is_noticed(monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    right = lane.Lane.settle

    def broken(self: Any, last: Tensor, count: Tensor) -> None:
        right(self, last, (count + shift).clamp(min=1))

    monkeypatch.setattr(lane.Lane, "settle", broken)
    with pytest.raises(AssertionError):
        test_cached_log_probs_equal_uncached_ones(4)


def test_a_width_below_one_is_refused() -> None:
    student, _ = pair()
    with pytest.raises(ValueError, match=r"^block is 0: draft at least 1 token"):
        Engine(student, {}, slots=1, block=0)


def test_hidden_states_are_those_of_the_settled_tokens() -> None:
    """With hidden states on record no update has to run the teacher's body."""
    student, teacher = pair()
    record = SignalSpec(dense=True)
    for r in generate(
        engine_of(student, teacher, block=4), ragged(9, size=13), BLEND, record=record
    ):
        assert r.signal.hidden is not None and r.signal.covers(record)
        logp = torch.log_softmax(teacher.logits(r.signal.hidden), -1)
        truth = uncached_logp(teacher, r.request.teacher_ids, r.ids.tolist())
        assert_near(logp, truth)
