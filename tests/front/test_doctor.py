"""Each check of the doctor on a pair that is right, and on one that is wrong in that one thing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tandem.front.doctor import Check, examine, refuse_failed
from tandem.models.cast import Cast
from tandem.models.loading import LoadedModel
from tandem.training.config import RunConfig

Maker = Callable[..., LoadedModel]
THINKER = "{{ messages[0]['content'] }}{% if enable_thinking %}a{% endif %}"


def _by_name(checks: list[Check]) -> dict[str, Check]:
    found = {check.name: check for check in checks}
    assert len(found) == len(checks)
    return found


def _examine(config: RunConfig, student: LoadedModel, teacher: LoadedModel) -> dict[str, Check]:
    prompts = config.task.prompts("train")
    return _by_name(examine(config, Cast(student, {"teacher": teacher}), prompts=prompts))


def test_a_sound_pair_passes_every_check(config: RunConfig, loaded: Maker) -> None:
    checks = _examine(config, loaded("student"), loaded("teacher", seed=1))
    assert {check.status for check in checks.values()} == {"ok"}
    refuse_failed(list(checks.values()))


def test_tokenizers_that_differ_fail_and_the_ids_are_named(
    config: RunConfig, loaded: Maker
) -> None:
    checks = _examine(config, loaded("student"), loaded("teacher", seed=1, alphabet="abdc"))
    assert checks["tokenizers"].status == "fail"
    assert "differ on 2 of 6 shared ids, such as 4 ('c' / 'd')" in checks["tokenizers"].detail
    with pytest.raises(ValueError, match=r"^tokenizers: the tokenizers of student 'student'"):
        refuse_failed(list(checks.values()))


def test_end_ids_are_shown_with_their_tokens(config: RunConfig, loaded: Maker) -> None:
    checks = _examine(config, loaded("student"), loaded("teacher", seed=1))
    assert checks["student end ids"].detail == "1 '<end>' (emitted first: 1)"
    assert checks["teacher end ids"].detail == "1 '<end>'"


def test_padded_rows_of_different_size_are_shown_and_harmless(
    config: RunConfig, loaded: Maker
) -> None:
    checks = _examine(config, loaded("student", rows=8), loaded("teacher", seed=1, rows=12))
    assert checks["padded rows"].status == "ok"
    assert checks["padded rows"].detail.startswith("8 student and 12 teacher rows for 6 tokens")


def test_a_teacher_equal_to_the_student_is_a_warning(config: RunConfig, loaded: Maker) -> None:
    checks = _examine(config, loaded("student"), loaded("teacher"))
    assert checks["two models"] == Check(
        "two models", "warn", "teacher and student are equal: there is nothing to learn"
    )
    refuse_failed(list(checks.values()))


def test_a_dtype_other_than_the_one_asked_for_fails(config: RunConfig, loaded: Maker) -> None:
    teacher = loaded("teacher", seed=1, dtype=torch.bfloat16)
    checks = _examine(config, loaded("student"), teacher)
    assert checks["student dtype"] == Check("student dtype", "ok", "float32")
    assert checks["teacher dtype"].status == "fail"
    assert checks["teacher dtype"].detail == "float32 was asked for, the weights are bfloat16"


def test_prompts_over_the_limit_are_counted(config: RunConfig, loaded: Maker) -> None:
    tight = config.model_copy(
        update={"rollout": config.rollout.model_copy(update={"max_prompt_tokens": 3})}
    )
    checks = _examine(tight, loaded("student"), loaded("teacher", seed=1))
    assert checks["prompt lengths"] == Check(
        "prompt lengths", "warn", "longest 4 of at most 3 tokens, 1 of 3 dropped"
    )


def test_the_longer_of_the_two_models_prompts_counts(config: RunConfig, loaded: Maker) -> None:
    tight = config.model_copy(
        update={"rollout": config.rollout.model_copy(update={"max_prompt_tokens": 5})}
    )
    teacher = loaded("teacher", seed=1, template="ab{problem}")
    checks = _examine(tight, loaded("student"), teacher)
    assert checks["prompt lengths"].detail == "longest 6 of at most 5 tokens, 1 of 3 dropped"


def test_a_run_left_without_prompts_fails(config: RunConfig, loaded: Maker) -> None:
    tight = config.model_copy(
        update={"rollout": config.rollout.model_copy(update={"max_prompt_tokens": 1})}
    )
    checks = _examine(tight, loaded("student"), loaded("teacher", seed=1))
    assert checks["prompt lengths"] == Check(
        "prompt lengths", "fail", "all 3 prompts are longer than max_prompt_tokens 1; raise it"
    )


def test_responses_beyond_the_context_fail(config: RunConfig, loaded: Maker) -> None:
    long = config.model_copy(
        update={"rollout": config.rollout.model_copy(update={"max_new_tokens": 25})}
    )
    checks = _examine(long, loaded("student"), loaded("teacher", seed=1))
    assert checks["student context"].status == "fail"
    assert "is 33, but the model was made for 32" in checks["student context"].detail


def test_a_chat_model_without_a_template_fails(config: RunConfig, loaded: Maker) -> None:
    teacher = loaded("teacher", seed=1, prompt="chat")
    checks = _examine(config, loaded("student"), teacher)
    assert checks["teacher prompt"].status == "fail"
    assert "has no chat template: set prompt to plain" in checks["teacher prompt"].detail


def test_a_thinking_flag_left_open_is_a_warning(config: RunConfig, loaded: Maker) -> None:
    open_flag = loaded("teacher", seed=1, prompt="chat", chat_template=THINKER)
    checks = _examine(config, loaded("student"), open_flag)
    assert checks["teacher prompt"].status == "warn"
    assert checks["teacher prompt"].detail == (
        "chat, ends 'ab'; its template reads thinking, which is not set"
    )
    chosen = loaded("teacher", seed=1, prompt="chat", chat_template=THINKER, thinking=True)
    checks = _examine(config, loaded("student"), chosen)
    assert checks["teacher prompt"] == Check("teacher prompt", "ok", "chat, ends 'aba'")


def test_a_vllm_that_is_not_there_fails(
    config: RunConfig, loaded: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = config.rollout.model_copy(update={"engine": "vllm"})
    asking = config.model_copy(update={"rollout": rollout})
    pair = loaded("student"), loaded("teacher", seed=1)
    assert "rollout engine" not in _examine(config, *pair)
    monkeypatch.setattr("tandem.rollout.vllm_process.find_spec", lambda name: None)
    check = _examine(asking, *pair)["rollout engine"]
    assert check.status == "fail" and "vLLM is not installed" in check.detail
    monkeypatch.setattr("tandem.rollout.vllm_process.find_spec", lambda name: name)
    assert _examine(asking, *pair)["rollout engine"] == Check("rollout engine", "ok", "vllm")
