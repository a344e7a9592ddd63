"""Requests that cannot be served are refused in one sentence, before any work."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
from rollout_models import Unreachable, engine_of, generate, llama, pair, qwen3, speakers
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from tandem.behaviours import FixedBudgetBlend, Student
from tandem.rollout import Engine
from tandem.rollout.refusal import naming_prompts
from tandem.types import Request, Sampling

BLEND = FixedBudgetBlend(budget=0.1)


def refuse(requests: list[Request], sentence: str, **changes: Any) -> None:
    student, teacher = (Unreachable(s) for s in pair())
    with pytest.raises(ValueError, match=re.escape(sentence)):
        generate(engine_of(student, teacher), requests, BLEND, **changes)


def test_what_can_never_fit_is_refused_with_the_arithmetic() -> None:
    long = (1,) * 60
    refuse(
        [Request(7, long, (1,))],
        "request 7 can never fit the student: 60 prompt tokens + 12 new tokens − 1 = 71 positions, "
        "and its context (max_position_embeddings) is 64",
    )
    refuse([Request(8, (1,), long)], "request 8 can never fit the teacher 'teacher': 60 prompt")


def test_the_context_may_be_filled_to_its_last_position() -> None:
    student, teacher = pair()
    request = Request(0, (1,) * 53, (1,) * 53, forced_ids=(2,) * 12)
    (rollout,) = generate(engine_of(student, teacher), [request], BLEND)
    assert len(rollout) == 12


def test_a_teacher_that_is_not_consulted_limits_nothing() -> None:
    student, teacher = pair()
    request = Request(0, (1,), (1,) * 100)
    (rollout,) = generate(engine_of(student, teacher), [request], Student())
    assert len(rollout) >= 1


@pytest.mark.parametrize(
    ("requests", "changes", "sentence"),
    [
        ([Request(3, (), (1,))], {}, "request 3 has an empty prompt for the student"),
        ([Request(3, (1,), ())], {}, "request 3 has an empty prompt for the teacher 'teacher'"),
        ([Request(3, (1,), (1,), "t5")], {}, "asks for teacher 't5', but the engine has 'teacher'"),
        ([Request(3, (1,), (1,))] * 2, {}, "request id 3 occurs more than once"),
        (
            [Request(3, (1,), (1,), forced_ids=(1,) * 13)],
            {},
            "request 3 forces 13 tokens, but max_new_tokens is 12",
        ),
        (
            [Request(3, (1,), (1,), forced_ids=(1, 13))],
            {},
            "request 3 forces id 13, but the shared vocabulary has 13 ids",
        ),
        (
            [Request(3, (1,), (1,))],
            {"sampling": Sampling(max_new_tokens=0)},
            "max_new_tokens is 0: ask for at least 1",
        ),
        (
            [Request(3, (1,), (1,))],
            {"sampling": Sampling(max_new_tokens=2, temperature=-1.0)},
            "temperature is -1.0: give 0 (greedy) or a number from 0.001 to 1000",
        ),
    ],
)
def test_meaningless_requests_are_refused(
    requests: list[Request], changes: dict[str, Any], sentence: str
) -> None:
    refuse(requests, sentence, **changes)


def test_engines_need_a_slot_and_one_vocabulary() -> None:
    student, teacher = pair()
    with pytest.raises(ValueError, match="slots is 0"):
        Engine(student, {}, slots=0)
    _, other = speakers(qwen3(0, vocabulary=9), llama(0, vocabulary=9), size=9)
    with pytest.raises(ValueError, match="make both speakers from one alignment"):
        Engine(student, {"teacher": teacher, "other": other}, slots=1)


def test_a_model_that_drops_its_cache_is_refused() -> None:
    student, teacher = pair()
    recomputed = partial(checkpoint, use_reentrant=False)
    for layer in student.model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            vars(layer).update(gradient_checkpointing=True, _gradient_checkpointing_func=recomputed)
            layer.train()
    with pytest.raises(ValueError, match="0 of 2 layers wrote to the cache: put the model in"):
        generate(engine_of(student, teacher), [Request(0, (1, 2), (1, 2))], Student())


def test_whoever_knows_the_prompts_hears_of_a_prompt() -> None:
    student, teacher = (Unreachable(s) for s in pair())
    engine = engine_of(student, teacher)
    said = (
        "prompt 'train-2' can never fit the student: 60 prompt tokens + 12 new tokens − 1 = 71 "
        "positions, and its context (max_position_embeddings) is 64: allow shorter prompts or "
        "fewer new tokens"
    )
    requests = [Request(2**40, (1,), (1,)), Request(2**40 + 2, (1,) * 60, (1,))]
    with (
        pytest.raises(ValueError, match=f"^{re.escape(said)}$"),
        naming_prompts(lambda request: f"train-{request.id - 2**40}"),
    ):
        generate(engine, requests, BLEND)


def test_what_is_no_refusal_of_a_request_keeps_its_words() -> None:
    with (
        pytest.raises(ValueError, match=r"^request id 3 occurs more than once"),
        naming_prompts(lambda request: "unknown"),
    ):
        generate(engine_of(*pair()), [Request(3, (1,), (1,))] * 2, BLEND)
