"""What the engine promises besides the law: independence of batching, ends, economy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rollout_models import (
    Unreachable,
    Watched,
    assert_near,
    engine_of,
    generate,
    llama,
    pair,
    qwen3,
    ragged,
    sampled,
    speakers,
    tokens,
    uncached_logp,
)
from torch import Tensor

from tandem.behaviours import (
    Behaviour,
    FixedBudgetBlend,
    Student,
    Teacher,
    TrustRegionBlend,
)
from tandem.models.speaker import Speaker
from tandem.rollout import Engine
from tandem.types import Author, Clock, Request, Sampling, SignalSpec

BLEND = FixedBudgetBlend(budget=0.1)


@pytest.mark.parametrize("behaviour", [BLEND, Student()], ids=lambda b: b.kind)
def test_tokens_do_not_depend_on_slots_order_or_company(behaviour: Behaviour) -> None:
    student, teacher = pair()
    requests = ragged(19, size=13)
    truth = {
        r.request.id: r
        for r in generate(engine_of(student, teacher, slots=19), requests, behaviour)
    }
    shuffled = [
        requests[i] for i in torch.randperm(19, generator=torch.Generator().manual_seed(0)).tolist()
    ]
    for slots, chosen in ((1, requests), (3, shuffled), (7, requests[::-1]), (4, requests[5:11])):
        rollouts = generate(engine_of(student, teacher, slots=slots), chosen, behaviour)
        assert [r.request for r in rollouts] == chosen
        for rollout in rollouts:
            same = truth[rollout.request.id]
            assert torch.equal(rollout.ids, same.ids)
            assert_near(rollout.behaviour_logp, same.behaviour_logp)


def test_another_seed_or_id_gives_other_tokens() -> None:
    student, teacher = pair()
    engine = engine_of(student, teacher)
    requests = [Request(i, (3, 4), (3, 4)) for i in range(12)]
    first, second = generate(engine, requests, BLEND), generate(engine, requests, BLEND, seed=8)
    assert tokens(first) != tokens(second)
    assert len({tuple(ids) for ids in tokens(first)}) > 6


def test_no_global_generator_is_used() -> None:
    student, teacher = pair()
    state = torch.get_rng_state()
    generate(engine_of(student, teacher), ragged(3, size=13), BLEND)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "behaviour",
    [FixedBudgetBlend(budget=0.0), FixedBudgetBlend(budget=1e-30)],
    ids=["zero", "vanishing, with the teacher consulted"],
)
def test_without_budget_the_tokens_are_the_student_s(behaviour: Behaviour) -> None:
    student, teacher = pair()
    engine, requests = engine_of(student, teacher), ragged(15, size=13)
    alone = generate(engine, requests, Student())
    assert tokens(generate(engine, requests, behaviour)) == tokens(alone)


def test_with_infinite_budget_the_tokens_are_the_teacher_s() -> None:
    student, teacher = pair()
    engine, requests = engine_of(student, teacher), ragged(15, size=13)
    unbounded = generate(engine, requests, FixedBudgetBlend(budget=1e6))
    assert tokens(unbounded) == tokens(generate(engine, requests, Teacher()))
    for rollout in unbounded:
        assert torch.equal(rollout.stats["exponent"], torch.ones(len(rollout)))
        assert_near(rollout.behaviour_logp, rollout.teacher_logp)


@pytest.mark.parametrize(
    "behaviour", [Student(), TrustRegionBlend(budget=0.1, warmup_steps=3)], ids=lambda b: b.kind
)
def test_a_teacher_that_is_not_needed_is_never_called(behaviour: Behaviour) -> None:
    student, teacher = pair()
    engine = engine_of(student, Unreachable(teacher))
    rollouts = generate(engine, ragged(5, size=13), behaviour, clock=Clock(3, 10))
    assert all(r.teacher_logp is None for r in rollouts)
    with pytest.raises(AssertionError, match="was called"):
        generate(engine, ragged(5, size=13), BLEND)


def test_without_need_of_a_teacher_none_has_to_be_there() -> None:
    student, _ = pair()
    requests = [Request(0, (1, 2), (), teacher="nobody")]
    (rollout,) = generate(Engine(student, {}, slots=1), requests, Student())
    assert len(rollout) >= 1


def test_each_distinct_prompt_is_prefilled_once_and_no_finished_row_is_fed() -> None:
    student, teacher = (Watched(s) for s in pair())
    students = [tuple(range(1, n)) for n in range(3, 10)]
    teachers = [tuple(range(n, 2, -1)) for n in range(4, 11)]
    requests = [
        Request(10 * i + k, p, q)
        for k in range(5)
        for i, (p, q) in enumerate(zip(students, teachers, strict=True))
    ]
    rollouts = generate(engine_of(student, teacher, slots=6), requests, BLEND)
    total = sum(map(len, rollouts))
    for speaker, prompts in ((student, students), (teacher, teachers)):
        stripped = [tuple(i for i in row if i != 0) for row in speaker.prefilled]
        assert sorted(stripped) == sorted(p[:-1] for p in prompts)
        assert sum(speaker.decoded) == total
        # Six rows are busy while anything waits, and the batch shrinks when nothing does.
        assert max(speaker.decoded) == 6 and speaker.decoded[-1] < 6
        assert len(speaker.decoded) <= total / 6 + 12


def test_prompts_of_one_token_need_no_prefill() -> None:
    student, teacher = pair()
    watched = Watched(student)
    requests = [Request(i, (i + 1,), (12 - i,)) for i in range(5)]
    for r in generate(engine_of(watched, teacher), requests, BLEND):
        p = uncached_logp(student, r.request.student_ids, r.ids.tolist())
        assert_near(r.student_logp, sampled(p, r))
    assert watched.prefilled == []


def test_the_length_limit_ends_what_has_not_ended_and_an_end_at_the_limit_is_an_end() -> None:
    student, teacher = pair()
    engine = engine_of(student, teacher, slots=8)
    requests = [Request(i, (3, 4), (3, 4)) for i in range(60)]
    whole = generate(engine, requests, BLEND)
    cut = generate(engine, requests, BLEND, sampling=Sampling(max_new_tokens=3))
    ends = {(len(r), r.ended) for r in cut}
    assert {(3, "length"), (3, "eos")} <= ends and all(n == 3 for n, e in ends if e == "length")
    for short, long in zip(cut, whole, strict=True):
        assert short.ids.tolist() == long.ids.tolist()[:3]


def test_forced_tokens_are_emitted_scored_and_attributed() -> None:
    student, teacher = pair()
    forced = [(), (5,), (7, 2, 9), (4, 0), tuple(range(1, 13))]
    requests = [
        Request(i, (3, 4), (2,), forced_ids=ids, forced_author=Author.TEACHER)
        for i, ids in enumerate(forced)
    ]
    free = generate(engine_of(student, teacher, slots=2), requests, Student())
    for rollout, ids in zip(free, forced, strict=True):
        found = tuple(rollout.ids.tolist())
        assert found[: len(ids)] == ids
        p = uncached_logp(student, (3, 4), found)
        assert_near(rollout.student_logp, sampled(p, rollout))
        own = len(found) - len(ids)
        assert rollout.author.tolist() == [Author.TEACHER] * len(ids) + [Author.STUDENT] * own
    assert free[3].ended == "eos" and free[4].ended == "length"


def test_forced_tokens_do_not_leak_into_the_next_response_of_a_slot() -> None:
    student, teacher = pair()
    plain = [Request(i, (3, 4), (2,)) for i in range(30)]
    forced = [replace(r, forced_ids=(9,) * 11) if r.id % 7 == 0 else r for r in plain]
    engine = engine_of(student, teacher, slots=3)
    alone, mixed = generate(engine, plain, BLEND), generate(engine, forced, BLEND)
    for before, after in zip(alone, mixed, strict=True):
        if not after.request.forced_ids:
            assert torch.equal(before.ids, after.ids)


def test_a_forced_prefix_equals_the_same_tokens_drawn() -> None:
    student, teacher = pair()
    requests = ragged(9, size=13)
    drawn = generate(engine_of(student, teacher), requests, BLEND)
    again = [
        Request(r.id, r.student_ids, r.teacher_ids, forced_ids=tuple(d.ids.tolist()[:4]))
        for r, d in zip(requests, drawn, strict=True)
    ]
    for a, b in zip(drawn, generate(engine_of(student, teacher), again, BLEND), strict=True):
        assert torch.equal(a.ids, b.ids)
        assert_near(a.behaviour_logp, b.behaviour_logp)


def test_aliases_of_the_end_are_summed_and_the_student_s_id_is_emitted() -> None:
    student, teacher = speakers(
        qwen3(1, vocabulary=9, sharpness=3.0),
        llama(2, vocabulary=9, sharpness=3.0),
        size=9,
        student_ends=(0, 5),
        teacher_ends=(3, 4),
    )
    requests = [Request(i, (1, 2), (7, 8, 6)) for i in range(40)]
    ended = 0
    for r in generate(engine_of(student, teacher, slots=8), requests, BLEND):
        ids = r.ids.tolist()
        assert not {3, 4, 5} & set(ids)
        if r.ended != "eos":
            continue
        ended += 1
        assert ids[-1] == 0 and r.teacher_logp is not None
        for model, prompt, own, other, recorded in (
            (student.model, (1, 2), [0, 5], [3, 4], r.student_logp[-1]),
            (teacher.model, (7, 8, 6), [3, 4], [0, 5], r.teacher_logp[-1]),
        ):
            raw = model(torch.tensor([[*prompt, *ids[:-1]]])).logits[0, -1]
            raw[other] = -torch.inf
            assert_near(recorded, torch.log_softmax(raw, 0)[own].logsumexp(0))
    assert ended > 10


class Masked(Speaker):
    """A speaker that gives some ids no probability at all."""

    def __init__(self, speaker: Speaker, ids: list[int]) -> None:
        super().__init__(
            speaker.model, own_end_ids=speaker.own_end_ids, alignment=speaker.alignment
        )
        self.masked = ids

    def canonical(self, raw: Tensor) -> Tensor:
        return (
            super()
            .canonical(raw)
            .index_fill(-1, torch.tensor(self.masked, dtype=torch.int64), -torch.inf)
        )


@pytest.mark.parametrize(
    "behaviour", [Student(), Teacher(), BLEND, FixedBudgetBlend(budget=3.0)], ids=repr
)
def test_ids_without_mass_or_outside_the_shared_vocabulary_are_never_drawn(
    behaviour: Behaviour,
) -> None:
    # Padded rows of different number: 16 and 20 of them, of which 11 are shared.
    student, teacher = speakers(qwen3(1, vocabulary=16), llama(2, vocabulary=20), size=11)
    masked = {"student": [2, 5], "teacher": [4]}
    engine = engine_of(Masked(student, masked["student"]), Masked(teacher, masked["teacher"]))
    rollouts = generate(engine, ragged(30, size=11), behaviour)
    drawn = {i for ids in tokens(rollouts) for i in ids}
    assert max(drawn) < 11
    if not isinstance(behaviour, Teacher):
        assert not drawn & {2, 5}
    for rollout in rollouts:
        assert torch.isfinite(rollout.behaviour_logp).all()
        if isinstance(behaviour, Teacher):
            assert 4 not in rollout.ids.tolist()


def test_every_request_meets_its_own_teacher() -> None:
    student, first = pair()
    second = speakers(student.model, llama(77, vocabulary=13), size=13)[1]
    engine = Engine(student, {"first": first, "second": second}, slots=3)
    named = [
        replace(r, teacher=("first", "second")[i % 2]) for i, r in enumerate(ragged(9, size=13))
    ]
    for r in generate(engine, named, Teacher()):
        teacher = {"first": first, "second": second}[r.request.teacher]
        q = uncached_logp(teacher, r.request.teacher_ids, r.ids.tolist())
        assert_near(r.teacher_logp, sampled(q, r))


def test_progress_grows_to_all_tokens_and_all_sequences() -> None:
    student, teacher = pair()
    seen: list[tuple[int, int]] = []
    rollouts = generate(
        engine_of(student, teacher),
        ragged(9, size=13),
        BLEND,
        on_progress=lambda *now: seen.append(now),
        record=SignalSpec(),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (sum(map(len, rollouts)), 9)


def test_no_requests_give_no_rollouts() -> None:
    student, teacher = pair()
    assert generate(engine_of(student, teacher), [], BLEND) == []
