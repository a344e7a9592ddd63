"""What each model reads before it answers, and what is read of its answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tandem.models.loading import LoadedModel, load_model
from tandem.models.prompts import decode_response, encode_prompt
from tandem.models.settings import ModelSettings
from tandem.models.vocabulary import Alignment
from tandem.tasks.base import Prompt

PROMPT = Prompt("1", ({"role": "user", "content": "What is 2+3?"},))
SYSTEM = r"Reason, then put the answer in \boxed{}."


@pytest.fixture(scope="module")
def qwen(test_data: Path, make_model: Any) -> LoadedModel:
    tokenizer = AutoTokenizer.from_pretrained(test_data / "tokenizers" / "qwen3")
    return LoadedModel(make_model(), tokenizer, (151_643,), ModelSettings(path="qwen"))


def speaking(model: LoadedModel, **words: Any) -> LoadedModel:
    return replace(model, settings=ModelSettings(path="qwen", **words))


def text_of(model: LoadedModel, ids: tuple[int, ...]) -> str:
    text = model.tokenizer.decode(list(ids))
    assert isinstance(text, str)
    return text


@pytest.mark.data
def test_chat_prompt_with_system_and_without_thinking_spelled_out(qwen: LoadedModel) -> None:
    chat = speaking(qwen, prompt="chat", system=SYSTEM, thinking=False)
    assert text_of(chat, encode_prompt(chat, PROMPT)) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        "<|im_start|>user\nWhat is 2+3?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert PROMPT.messages == ({"role": "user", "content": "What is 2+3?"},)


@pytest.mark.data
def test_thinking_leaves_the_model_to_open_its_own_thought(qwen: LoadedModel) -> None:
    opened = encode_prompt(speaking(qwen, prompt="chat", thinking=True), PROMPT)
    silent = encode_prompt(speaking(qwen, prompt="chat"), PROMPT)
    closed = encode_prompt(speaking(qwen, prompt="chat", thinking=False), PROMPT)
    assert text_of(qwen, opened).endswith("<|im_start|>assistant\n")
    assert opened == silent and closed[: len(opened)] == opened and len(closed) > len(opened)


@pytest.mark.data
def test_base_student_and_chat_teacher_read_different_prompts(qwen: LoadedModel) -> None:
    base = speaking(qwen, template="Problem: {problem}\nAnswer in \\boxed{}:")
    plain = encode_prompt(base, PROMPT)
    assert text_of(base, plain) == "Problem: What is 2+3?\nAnswer in \\boxed{}:"
    assert plain != encode_prompt(speaking(qwen, prompt="chat"), PROMPT)


@pytest.mark.data
def test_a_beginning_id_is_added_exactly_where_the_tokenizer_adds_one(
    qwen: LoadedModel, test_data: Path
) -> None:
    stories = load_model(ModelSettings(path=str(test_data / "models" / "stories260K" / "hf")))
    story = Prompt("1", ({"role": "user", "content": "Once upon a time"},))
    assert encode_prompt(stories, story) == (1, 403, 407, 261, 378)
    assert encode_prompt(qwen, story) == (12522, 5193, 264, 882)
    begun = Prompt("1", ({"role": "user", "content": "<s>Once upon a time"},))
    assert encode_prompt(stories, begun).count(1) == 1


@pytest.mark.data
def test_only_the_last_turn_is_plain_text(qwen: LoadedModel) -> None:
    turns = ({"role": "user", "content": "Hello"}, {"role": "user", "content": "2+3?"})
    assert text_of(qwen, encode_prompt(qwen, Prompt("1", turns))) == "2+3?"


@pytest.mark.data
def test_decoding_drops_the_end_and_special_tokens_and_nothing_else(qwen: LoadedModel) -> None:
    alignment = Alignment(151_669, 151_643, (151_643,), (151_645, 151_643))
    answer = tuple(qwen.tokenizer.encode("<think>2+3</think> so \\boxed{5} ."))
    expected = "<think>2+3</think> so \\boxed{5} ."
    assert decode_response(qwen.tokenizer, answer, alignment) == expected
    assert decode_response(qwen.tokenizer, (*answer, 151_643), alignment) == expected
    assert decode_response(qwen.tokenizer, (151_643,), alignment) == ""
    assert decode_response(qwen.tokenizer, (), alignment) == ""


def test_an_end_token_that_is_an_ordinary_word_is_dropped_once(make_loaded: Any) -> None:
    model = make_loaded(rows=4, words=["a", "b", "end", "c"], end_ids=(2,))
    alignment = Alignment(4, 2, (2,))
    assert decode_response(model.tokenizer, [0, 1, 2], alignment) == "a b"


def test_chat_without_a_template_is_refused(make_loaded: Any) -> None:
    model = make_loaded(rows=4, words=["a", "b", "c", "d"], end_ids=(1,))
    model = replace(model, settings=ModelSettings(path="base", prompt="chat"))
    with pytest.raises(ValueError, match=r"model 'base' has no chat template: set prompt to plain"):
        encode_prompt(model, PROMPT)


def test_a_thinking_flag_that_no_template_reads_is_refused(make_loaded: Any) -> None:
    model = make_loaded(rows=4, words=["a", "b", "c", "d"], end_ids=(1,))
    model.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    chat = replace(model, settings=ModelSettings(path="base", prompt="chat"))
    assert encode_prompt(chat, Prompt("1", ({"role": "user", "content": "b d"},))) == (1, 3)
    with_flag = ModelSettings(path="base", prompt="chat", thinking=False)
    with pytest.raises(ValueError, match="does not read enable_thinking: leave thinking out"):
        encode_prompt(replace(model, settings=with_flag), PROMPT)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"system": "Be brief."}, "system 'Be brief.' is only read when prompt is chat"),
        ({"thinking": True}, "thinking True is only read when prompt is chat"),
        ({"template": "Q:"}, "template 'Q:' has no {problem}"),
        ({"prompt": "chat", "template": "Q: {problem}"}, "only read when prompt is plain"),
        ({"end_ids": ()}, "must be one or more distinct ids"),
        ({"end_ids": (3, 3)}, "must be one or more distinct ids"),
        ({"end_ids": (-1,)}, "must be one or more distinct ids"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        ModelSettings(path="x", **words)
    assert sentence in str(caught.value)
