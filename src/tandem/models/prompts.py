"""Text to ids and back, as each model wants it.

The student and the teacher may see different prompts for one problem: a base student reads plain
text, a chat teacher its chat template with a system prompt and a thinking flag.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tandem.models.loading import LoadedModel
from tandem.models.settings import PROBLEM, ModelSettings
from tandem.models.vocabulary import Alignment
from tandem.tasks.base import Prompt


def encode_prompt(model: LoadedModel, prompt: Prompt) -> tuple[int, ...]:
    """The ids `model` reads before it answers `prompt`.

    Raises ValueError where a chat prompt is asked of a tokenizer without a chat template, or a
    thinking flag of a template that does not read one.
    """
    if model.settings.prompt == "plain":
        return _encode_plain(model.tokenizer, model.settings, prompt)
    return _encode_chat(model.tokenizer, model.settings, prompt)


def decode_response(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int] | Tensor, alignment: Alignment
) -> str:
    """The text of a response [T], without its end token and other special tokens."""
    plain = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    if plain and plain[-1] == alignment.end_id:
        plain = plain[:-1]
    text = tokenizer.decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _encode_plain(
    tokenizer: PreTrainedTokenizerBase, settings: ModelSettings, prompt: Prompt
) -> tuple[int, ...]:
    # `replace`, not `format`: problems and templates are full of braces (\boxed{}).
    text = settings.template.replace(PROBLEM, prompt.text)
    bare = tuple(tokenizer.encode(text, add_special_tokens=False))
    # A beginning-of-sequence id goes in front exactly where the tokenizer itself puts one (Llama
    # does, Qwen does not); an end id some tokenizers append would end the response before it began.
    dressed = tuple(tokenizer.encode(text, add_special_tokens=True))
    start: Any = tokenizer.bos_token_id
    if start is not None and dressed[:1] == (start,) and bare[:1] != (start,):
        return (start, *bare)
    return bare


def _encode_chat(
    tokenizer: PreTrainedTokenizerBase, settings: ModelSettings, prompt: Prompt
) -> tuple[int, ...]:
    if tokenizer.chat_template is None:
        raise ValueError(
            f"the tokenizer of model {settings.path!r} has no chat template: set prompt to plain"
        )
    options: dict[str, Any] = {}
    if settings.thinking is not None:
        if "enable_thinking" not in tokenizer.get_chat_template():
            raise ValueError(
                f"the chat template of model {settings.path!r} does not read enable_thinking: "
                "leave thinking out"
            )
        options["enable_thinking"] = settings.thinking
    messages = [dict(turn) for turn in prompt.messages]
    if settings.system is not None:
        messages.insert(0, {"role": "system", "content": settings.system})
    ids: Any = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False, **options
    )
    return tuple(ids)
