"""Plain student roll-outs with vLLM: the student's law, its weights of now, its log-probs."""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from rollout_models import CLOCK, assert_near, tokens
from scipy.stats import chisquare
from torch import Tensor
from vllm_cases import ENDS, SIZE, TEACHER_ENDS, change, kinds, law_by_hand, student, there

from tandem.behaviours import Student
from tandem.models.speaker import Speaker
from tandem.rollout.vllm_engine import VllmEngine
from tandem.types import Request, Rollout, Sampling, SignalSpec

LONGEST = 120


@dataclass
class Started:
    """An engine after its first roll-out. disturbed: what its start left changed."""

    engine: VllmEngine
    student: Speaker
    disturbed: list[str]


def engine_of(speaker: Speaker, **options: Any) -> VllmEngine:
    return VllmEngine(speaker, slots=64, longest=LONGEST, cache_per_token=1024, **options)


def generate(engine: VllmEngine, asked: list[Request], **changes: Any) -> list[Rollout]:
    settings: dict[str, Any] = dict(sampling=Sampling(12), seed=7, record=SignalSpec())
    return engine.generate(asked, behaviour=Student(), clock=CLOCK, **{**settings, **changes})


def requests(count: int, *, first: int = 0) -> list[Request]:
    """Prompts of 1 to 9 tokens, different from one another."""
    return [
        Request(
            id=first + i,
            student_ids=tuple(1 + (i * j) % 12 for j in range(1 + i % 9)),
            teacher_ids=(1,),
        )
        for i in range(count)
    ]


def states() -> tuple[Tensor, Any, Any]:
    numpys: Any = np.random.get_state()
    return torch.get_rng_state(), random.getstate(), numpys


@pytest.fixture(scope="module", params=kinds("real-tied", "real-untied"))
def started(request: pytest.FixtureRequest) -> Iterator[Started]:
    kind, _, head = request.param.partition("-")
    with there(kind):
        speaker = student(tied=head != "untied")
        engine = engine_of(speaker)
        function, threads = torch.set_num_threads, torch.get_num_threads()
        # Another seed than vLLM's own, which another test may have left.
        random.seed(12345)
        np.random.seed(12345)
        torch.manual_seed(12345)
        before = states()
        generate(engine, requests(1), sampling=Sampling(1, 0.0))
        after = states()
        disturbed = [
            name
            for name, changed in {
                "torch": not torch.equal(before[0], after[0]),
                "random": before[1] != after[1],
                "numpy": not np.array_equal(before[2][1], after[2][1]),
                "set_num_threads": torch.set_num_threads is not function,
                "threads": torch.get_num_threads() != threads,
                "gc": gc.get_freeze_count() > 0,
            }.items()
            if changed
        ]
        yield Started(engine, speaker, disturbed)
        engine.close()


@pytest.fixture
def engine(started: Started) -> VllmEngine:
    started.engine.refresh()
    return started.engine


def drawn(law: Tensor, rollout: Rollout) -> Tensor:
    return law.gather(1, rollout.ids[:, None])[:, 0].log().float()


def test_its_log_probs_are_the_law_worked_by_hand_after_every_update(
    started: Started, engine: VllmEngine
) -> None:
    for update in range(3):
        rollouts = generate(engine, requests(30), policy_version=update)
        for rollout in rollouts:
            law = law_by_hand(started.student, rollout.request.student_ids, rollout.ids.tolist())
            assert_near(rollout.student_logp, drawn(law, rollout))
            assert torch.equal(rollout.behaviour_logp, rollout.student_logp)
            assert rollout.policy_version == update
        assert sum(rollout.ended == "eos" for rollout in rollouts) > 3
        change(started.student, update)
        engine.refresh()


def test_responses_are_those_of_the_requests_in_their_order(engine: VllmEngine) -> None:
    asked = requests(20)
    rollouts = generate(engine, asked)
    assert [rollout.request for rollout in rollouts] == asked
    again = generate(engine, asked[::-1])
    assert tokens(again) == tokens(rollouts)[::-1]


def test_a_response_stops_at_the_first_end_and_says_only_shared_ids(engine: VllmEngine) -> None:
    unsayable = {*ENDS[1:], *TEACHER_ENDS, *range(SIZE, 40)}
    rollouts = generate(engine, requests(200))
    assert {rollout.ended for rollout in rollouts} == {"eos", "length"}
    for rollout in rollouts:
        ids = rollout.ids.tolist()
        assert not unsayable & set(ids) and 0 not in ids[:-1]
        assert (rollout.ended == "eos") == (ids[-1] == 0)
        assert len(ids) == 12 or ids[-1] == 0


def test_two_tokens_follow_the_joint_law(started: Started, engine: VllmEngine) -> None:
    prompt, count = (3, 9, 2), 4000
    asked = [Request(id=i, student_ids=prompt, teacher_ids=(1,)) for i in range(count)]
    found = Counter(map(tuple, tokens(generate(engine, asked, sampling=Sampling(2)))))
    first = law_by_hand(started.student, prompt, [0])[0]
    expected: dict[tuple[int, ...], float] = {(0,): float(first[0])}
    for a in range(1, SIZE):
        second = law_by_hand(started.student, prompt, [a, 0])[1]
        expected |= {(a, b): float(first[a] * second[b]) for b in range(SIZE)}
    assert all(expected[pair] > 0 for pair in found)
    often = [pair for pair in expected if expected[pair] * count >= 5]
    observed = [found[pair] for pair in often]
    wanted = [expected[pair] * count for pair in often]
    rest = count - sum(wanted)
    result = chisquare([*observed, count - sum(observed)], [*wanted, rest])
    assert len(often) > 20 and result.pvalue > 1e-4


def test_the_support_is_the_likeliest_ids(started: Started, engine: VllmEngine) -> None:
    for rollout in generate(engine, requests(10), record=SignalSpec(student_topk=4)):
        law = law_by_hand(started.student, rollout.request.student_ids, rollout.ids.tolist())
        ids = rollout.signal.student_topk_ids
        assert ids is not None and torch.equal(ids, law.topk(4).indices)
        assert rollout.signal.student_topk_logp is None


def test_a_support_larger_than_the_vocabulary_is_all_of_it(engine: VllmEngine) -> None:
    for rollout in generate(engine, requests(10), record=SignalSpec(student_topk=64)):
        ids = rollout.signal.student_topk_ids
        assert ids is not None
        assert all(sorted(row) == list(range(SIZE)) for row in ids.tolist())


def test_entropy_is_the_student_s_own(started: Started, engine: VllmEngine) -> None:
    for rollout in generate(engine, requests(20), record=SignalSpec(student_entropy=True)):
        law = law_by_hand(started.student, rollout.request.student_ids, rollout.ids.tolist())
        assert_near(rollout.student_entropy, torch.special.entr(law).sum(1).float())


def test_temperature_sharpens_the_law_and_not_the_student(
    started: Started, engine: VllmEngine
) -> None:
    for rollout in generate(engine, requests(20), sampling=Sampling(12, 0.5)):
        law = law_by_hand(started.student, rollout.request.student_ids, rollout.ids.tolist())
        assert_near(rollout.student_logp, drawn(law, rollout))
        sharp = law.pow(2.0) / law.pow(2.0).sum(1, keepdim=True)
        assert_near(rollout.behaviour_logp, drawn(sharp, rollout))


def test_greedy_takes_the_likeliest_id_for_certain(started: Started, engine: VllmEngine) -> None:
    for rollout in generate(engine, requests(20), sampling=Sampling(12, 0.0)):
        law = law_by_hand(started.student, rollout.request.student_ids, rollout.ids.tolist())
        assert torch.equal(rollout.ids, law.argmax(1))
        assert_near(rollout.student_logp, drawn(law, rollout))
        assert torch.equal(rollout.behaviour_logp, torch.zeros(len(rollout)))


def test_equal_seeds_repeat_themselves_and_others_differ(engine: VllmEngine) -> None:
    once = tokens(generate(engine, requests(20)))
    assert tokens(generate(engine, requests(20))) == once
    assert tokens(generate(engine, requests(20), seed=8)) != once
    assert tokens(generate(engine, [replace(r, id=r.id + 99) for r in requests(20)])) != once


def test_a_cached_prompt_is_forgotten_with_the_weights_that_read_it(
    started: Started, engine: VllmEngine
) -> None:
    prompt = tuple(1 + i % 12 for i in range(100))
    asked = [Request(id=i, student_ids=prompt, teacher_ids=(1,)) for i in range(20)]
    generate(engine, asked)
    change(started.student, 9)
    engine.refresh()
    for rollout in generate(engine, asked):
        law = law_by_hand(started.student, prompt, rollout.ids.tolist())
        assert_near(rollout.student_logp, drawn(law, rollout))


def test_the_gap_is_told_of_the_first_responses_and_is_rounding(engine: VllmEngine) -> None:
    rollouts = generate(engine, requests(20), record=SignalSpec(student_entropy=True))
    gaps = [r.stats["engine_logp_gap"] for r in rollouts if r.stats]
    assert len(gaps) == 8 and all(r.stats for r in rollouts[:8])
    assert [len(gap) for gap in gaps] == [len(r) for r in rollouts[:8]]
    assert float(torch.cat(gaps).max()) < 1e-5


def test_weights_that_vllm_was_not_given_are_refused(started: Started, engine: VllmEngine) -> None:
    generate(engine, requests(4))
    change(started.student, 5)
    sentence = (
        r"vLLM's log-probs are \S+ nats per token from the student's own, more than "
        r"rounding explains \(0\.001\): its weights or its law are not the student's; set "
        r"rollout\.engine=native"
    )
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        generate(engine, requests(4))


def test_a_head_that_alone_was_not_given_is_refused(started: Started, engine: VllmEngine) -> None:
    generate(engine, requests(4))
    with torch.no_grad():
        started.student.head.weight.mul_(1.1)
    with pytest.raises(ValueError, match=r"nats per token from the student's own"):
        generate(engine, requests(4))


def test_no_requests_are_no_responses(engine: VllmEngine) -> None:
    assert generate(engine, []) == []


def test_progress_counts_tokens_and_sequences(engine: VllmEngine) -> None:
    told: list[tuple[int, int]] = []
    rollouts = generate(engine, requests(9), on_progress=lambda *done: told.append(done))
    assert told[-1] == (sum(map(len, rollouts)), 9) and told == sorted(told)


def test_what_it_cannot_serve_is_refused(engine: VllmEngine) -> None:
    long = Request(id=3, student_ids=(1,) * 109, teacher_ids=(1,))
    sentence = (
        "request 3 has 109 prompt tokens and asks for 12 new ones, but vLLM was started for 1 or "
        "more and for 120 together: allow shorter prompts or fewer new tokens"
    )
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        generate(engine, [long])
    sentence = (
        r"temperature is 0\.001, which vLLM does not sample from: give 0 \(greedy\) or at least "
        r"0\.01"
    )
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        generate(engine, requests(1), sampling=Sampling(12, 0.001))


def test_the_rest_of_the_process_is_left_as_it_was(started: Started) -> None:
    assert started.disturbed == []
