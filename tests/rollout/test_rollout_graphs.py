"""Rounds of fixed shapes, as a GPU replays them, run here without a graph: the same tokens and
records as rounds that fit, and never another shape for the same key."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
import torch
from rollout_models import (
    BLOCKS,
    EVERYTHING,
    Watched,
    engine_of,
    generate,
    pair,
    ragged,
    tokens,
)
from test_rollout_blocks import assert_same
from test_rollout_law import BEHAVIOURS
from torch import Tensor

from tandem.behaviours import Behaviour, FixedBudgetBlend, Student
from tandem.behaviours.base import Law
from tandem.rollout.graphs import bucket_of_rows, bucket_of_slots, repeated, runner_on
from tandem.rollout.pace import Block
from tandem.rollout.tally import Tally
from tandem.types import Author, Clock

BLEND = FixedBudgetBlend(budget=0.1)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
@pytest.mark.parametrize("block", BLOCKS)
def test_fixed_shapes_give_the_same_responses(behaviour: Behaviour, block: Block) -> None:
    student, teacher = pair()
    requests = ragged(17, size=13)
    truth = generate(engine_of(student, teacher, slots=5), requests, behaviour, record=EVERYTHING)
    engine = engine_of(student, teacher, slots=5, block=block, runner=lambda device: repeated)
    assert_same(generate(engine, requests, behaviour, record=EVERYTHING), truth)


class Placed(Student):
    """A law of the student alone that changes with the place of a token, and says it."""

    def __call__(
        self,
        *,
        student_logp: Tensor,
        teacher_logp: Tensor | None,
        clock: Clock,
        position: Tensor,
    ) -> Law:
        sharper = student_logp * (1.0 + position % 3)[:, None]
        return Law(torch.log_softmax(sharper, -1), {"place": position.float()})

    def author(self, clock: Clock) -> Author:
        return Author.BLEND

    def is_always_student(self) -> bool:
        return False


def test_tokens_of_a_student_alone_each_have_their_own_place_in_a_replayed_round() -> None:
    student, teacher = pair()
    requests = ragged(17, size=13)
    truth = generate(engine_of(student, teacher, slots=5), requests, Placed())
    engine = engine_of(student, teacher, slots=5, runner=lambda device: repeated)
    tally = Tally()
    found = generate(engine, requests, Placed(), tally=tally)
    assert_same(found, truth)
    for rollout in found:
        assert rollout.stats["place"].tolist() == list(range(len(rollout.ids)))
    assert tally.stayed == tally.tried == sum(map(len, tokens(found)))
    assert tally.rounds < tally.tokens / 5, "several tokens of each row to a round"


def test_rounds_of_one_key_have_one_shape() -> None:
    """All rounds of one key feed the same shapes under masks of the same shapes."""
    student, teacher = (Watched(s) for s in pair())
    shapes: dict[Hashable, list[tuple[tuple[int, ...], ...]]] = {}

    def watching(key: Hashable, work: Callable[[], Tensor]) -> Tensor:
        before = [list(s.fed) for s in (student, teacher)]
        found = work()
        fed = [tuple(s.fed[len(b) :]) for s, b in zip((student, teacher), before, strict=True)]
        assert shapes.setdefault(key, fed) == fed
        return found

    engine = engine_of(student, teacher, slots=6, block=4, runner=lambda device: watching)
    rollouts = generate(engine, ragged(30, size=13), BLEND)
    assert len(shapes) > 2 and sum(map(len, rollouts)) > 100


def test_a_row_without_a_response_leaves_no_trace() -> None:
    """Fewer requests than a bucket has rows, and rows that empty while others go on."""
    student, teacher = pair()
    for count in (1, 3, 5, 9):
        requests = ragged(count, size=13)
        truth = generate(engine_of(student, teacher, slots=1), requests, BLEND)
        engine = engine_of(student, teacher, slots=8, block=3, runner=lambda device: repeated)
        assert tokens(generate(engine, requests, BLEND)) == tokens(truth)


def test_buckets_hold_what_they_must_and_are_few() -> None:
    for most in (1, 5, 64, 100):
        found = {bucket_of_rows(live, most) for live in range(1, most + 1)}
        assert max(found) == most and len(found) <= 8
        assert all(bucket_of_rows(live, most) >= live for live in range(1, most + 1))
    sizes = [bucket_of_slots(n, 9_000) for n in range(1, 9_001)]
    assert all(size >= n for n, size in enumerate(sizes, start=1))
    assert sizes == sorted(sizes) and max(sizes) == 9_000 and len(set(sizes)) < 30
    assert all(size <= max(128, 1.25 * n + 64) for n, size in enumerate(sizes, start=1))


def test_a_cpu_needs_no_fixed_shapes() -> None:
    assert runner_on(torch.device("cpu")) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
def test_graphs_give_the_responses_of_a_cpu(behaviour: Behaviour) -> None:
    student, teacher = pair()
    requests = ragged(17, size=13)
    truth = generate(engine_of(student, teacher, slots=5), requests, behaviour)
    for speaker in (student, teacher):
        speaker.model.to("cuda")  # pyright: ignore[reportArgumentType]
    found = generate(engine_of(student, teacher, slots=5, block=4), requests, behaviour)
    same = sum(a == b for a, b in zip(tokens(found), tokens(truth), strict=True))
    assert same >= 16, "rounding may part one response, not two"
