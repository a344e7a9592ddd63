"""Rounds of fixed shapes: rows without a response, and what a round is keyed by."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

import pytest
from rollout_models import (
    Watched,
    engine_of,
    generate,
    llama,
    pair,
    qwen3,
    ragged,
    speakers,
    tokens,
)
from torch import Tensor

from tandem.behaviours import FixedBudgetBlend
from tandem.rollout import graphs, session
from tandem.rollout.graphs import SLOT_STEP, repeated
from tandem.types import Request, Sampling

BLEND = FixedBudgetBlend(budget=0.1)


@pytest.mark.parametrize("width", [1, 3, 8])
def test_rows_without_a_response_stay_in_their_first_slots(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they walk out of their slots, into those of other rows."""
    right, idle = session.Session.round, list[int]()

    def watched(self: session.Session, drafts: int) -> None:
        right(self, drafts)
        live = len(self.rows)
        for lane in self.lanes:
            assert lane.lengths == lane._state[1, :live].tolist()
            assert not lane._state[1, live:].any()
        if live:
            idle.append(graphs.bucket_of_rows(live, self.slots) - live)

    monkeypatch.setattr(session.Session, "round", watched)
    student, teacher = pair()
    requests = ragged(21, size=13)
    truth = generate(engine_of(student, teacher, slots=1), requests, BLEND)
    idle.clear()
    engine = engine_of(student, teacher, slots=8, block=width, runner=lambda device: repeated)
    assert tokens(generate(engine, requests, BLEND)) == tokens(truth)
    assert any(idle), "no round fed a row without a response"


@pytest.mark.parametrize("width", [1, 5])
def test_contexts_of_several_buckets_of_slots_give_the_same_responses(width: int) -> None:
    """Rounds of one key attend over one number of slots, which holds all that they feed."""
    student, teacher = (
        Watched(s)
        for s in speakers(
            qwen3(1, vocabulary=13, max_position_embeddings=512),
            llama(101, vocabulary=13, max_position_embeddings=512),
            size=13,
        )
    )
    shapes: dict[Hashable, list[tuple[tuple[int, ...], ...]]] = {}

    def watching(key: Hashable, work: Callable[[], Tensor]) -> Tensor:
        before = [len(s.fed) for s in (student, teacher)]
        found = work()
        fed = [tuple(s.fed[n:]) for s, n in zip((student, teacher), before, strict=True)]
        assert shapes.setdefault(key, fed) == fed
        return found

    # The end is drawn soon, so that long contexts have to come with the prompts.
    requests = [
        replace(r, student_ids=r.student_ids * (1 + 5 * i), teacher_ids=r.teacher_ids * (1 + 3 * i))
        for i, r in enumerate(ragged(7, size=13, longest=5))
    ]
    requests += [Request(i, (3,) * 58, (4,) * (125 + i), forced_ids=(1, 2)) for i in range(6)]
    requests = [replace(r, max_new_tokens=(7, 60)[i % 2]) for i, r in enumerate(requests)]
    sampling = Sampling(max_new_tokens=60)
    truth = generate(engine_of(student, teacher, slots=1), requests, BLEND, sampling=sampling)
    engine = engine_of(student, teacher, slots=3, block=width, runner=lambda device: watching)
    assert tokens(generate(engine, requests, BLEND, sampling=sampling)) == tokens(truth)
    attended = {shape[-1] for fed in shapes.values() for lane in fed for shape in lane}
    assert len(attended) > 2 and min(attended) == SLOT_STEP
    fed = {shape[1] for fed in shapes.values() for shape in fed[1]}
    assert fed >= ({1} if width == 1 else {2, 5}), "limits make for narrower rounds"


@pytest.mark.parametrize("width", [1, 5])
def test_a_bucket_of_slots_holds_the_drafts_too_and_little_more(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, tight = session.Session._advance, list[bool]()

    def watched(self: session.Session, rows: int, drafts: int, used: tuple[int, ...]) -> Tensor:
        for lane, slots in zip(self.lanes, used, strict=True):
            needed = max(lane.lengths) + drafts
            assert needed <= slots < needed + SLOT_STEP
            one = graphs.bucket_of_slots(max(lane.lengths) + 1, lane.cache.capacity)
            tight.append(one < needed)
        return right(self, rows, drafts, used)

    monkeypatch.setattr(session.Session, "_advance", watched)
    student, teacher = speakers(
        qwen3(1, vocabulary=13, max_position_embeddings=512),
        llama(101, vocabulary=13, max_position_embeddings=512),
        size=13,
    )
    requests = [Request(i, (3,) * (55 + i), (4,) * (120 + i)) for i in range(12)]
    engine = engine_of(student, teacher, slots=1, block=width, runner=lambda device: repeated)
    generate(engine, requests, BLEND)
    assert any(tight) == (width > 1), "no round ended close to a bucket's end"
