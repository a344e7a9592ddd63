"""What every task is: prompts by split, and a grader. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tandem.settings import Settings

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem. `messages` are chat turns ({"role", "content"}) without the system prompt,
    which belongs to the model; a plain-text model sees the last turn's content.

    answer: what a right one is graded by. domain: what chooses among several teachers.
    completion: a whole response to learn from, without an end token. Each is empty where the data
    have none.
    """

    id: str
    messages: tuple[dict[str, str], ...]
    answer: str = ""
    domain: str = ""
    completion: str = ""

    @property
    def text(self) -> str:
        return self.messages[-1]["content"]


@dataclass(frozen=True, slots=True)
class Grade:
    """`correct`: the answer is right. `answered`: an answer was found at all.
    `reason`: empty, or why there is none ("no answer", "timeout", ...). `answer`: what was read off
    the completion, as votes are counted by; empty where there is none."""

    correct: bool
    answered: bool
    reason: str = ""
    answer: str = ""


class Task(Settings, ABC):
    """Where prompts come from and what counts as right."""

    kind: Any

    @abstractmethod
    def prompts(self, split: Split) -> list[Prompt]:
        """The split's prompts in a fixed order; train and test never overlap."""

    @abstractmethod
    def grade(self, prompt: Prompt, completion: str) -> Grade:
        """Grade one completion (text after the prompt, end tokens removed)."""

    def grade_many(self, items: Sequence[tuple[Prompt, str]]) -> list[Grade]:
        """Grade many; tasks with slow graders override this with a pool of workers."""
        return [self.grade(prompt, completion) for prompt, completion in items]
