"""What a recipe says about one model. Imports pydantic and nothing heavier."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import field_validator, model_validator

from tandem.settings import Settings

PROBLEM = "{problem}"


class ModelSettings(Settings):
    """One model and how it is spoken to.

    path: a folder, a hub id, `embedded:teacher` or `embedded:student`.
    dtype: of the weights in memory. attention: only implementations that read an explicit
        boolean mask, which the rollout engine's ragged cache needs.
    end_ids: the ids that end a response, the emitted one first; None reads the model's own
        generation configuration (never the tokenizer, whose end token may be another).
    prompt: `plain` fills `template`; `chat` applies the tokenizer's chat template, with `system`
        in front and `thinking` passed on as `enable_thinking` where it is set.
    """

    path: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    end_ids: tuple[int, ...] | None = None
    prompt: Literal["plain", "chat"] = "plain"
    template: str = PROBLEM
    system: str | None = None
    thinking: bool | None = None

    @field_validator("end_ids")
    @classmethod
    def _some_distinct_ids(cls, end_ids: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if end_ids is None:
            return None
        if not end_ids or min(end_ids) < 0 or len(set(end_ids)) < len(end_ids):
            raise ValueError(
                f"end_ids {list(end_ids)} must be one or more distinct ids from 0: "
                "name each id once, or leave end_ids out to use the model's own"
            )
        return end_ids

    @model_validator(mode="after")
    def _one_way_to_prompt(self) -> Self:
        if self.prompt == "chat" and self.template != PROBLEM:
            raise ValueError(
                f"template {self.template!r} is only read when prompt is plain: "
                "set prompt to plain, or move the words into system"
            )
        if self.prompt == "plain" and PROBLEM not in self.template:
            raise ValueError(f"template {self.template!r} has no {PROBLEM}: say where it goes")
        if self.prompt == "plain" and self.system is not None:
            raise ValueError(
                f"system {self.system!r} is only read when prompt is chat: "
                "set prompt to chat, or write the words into template"
            )
        if self.prompt == "plain" and self.thinking is not None:
            raise ValueError(
                f"thinking {self.thinking} is only read when prompt is chat: "
                "set prompt to chat, or leave thinking out"
            )
        return self
