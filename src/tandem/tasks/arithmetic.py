"""Chains of additions and subtractions, worked out one operation at a time.

The prompt is a chain and an equals sign, `47+38-21=`. A worked answer rewrites what is left of the
chain after each operation, from the left: `85-21=64`. The last number is the answer; partial
results may be negative (`12-45+7=` is worked as `-33+7=-26`). The alphabet is the ten digits and
`+ - =`.
"""

from __future__ import annotations

import hashlib
import random
import re
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from tandem.tasks.base import Grade, Prompt, Split, Task

ALPHABET = "0123456789+-="
_CHAIN = re.compile(r"-?\d+(?:[+-]\d+)*")
_NUMBER = re.compile(r"-?\d+")
# A problem's split is a hash of its text, so that no sizes and no seeds make splits overlap.
_BUCKETS = 20
_TEST_BUCKETS = (0, 1)
_VALIDATION_BUCKETS = (2,)


def split_of(problem: str) -> Split:
    """The one split that a problem belongs to: a tenth are test, a twentieth validation."""
    bucket = int.from_bytes(hashlib.sha256(problem.encode()).digest()[:8], "big") % _BUCKETS
    if bucket in _TEST_BUCKETS:
        return "test"
    return "validation" if bucket in _VALIDATION_BUCKETS else "train"


def worked(problem: str) -> str:
    """The whole worked answer to `a±b±c=`: `(a±b)±c=result`."""
    numbers = [int(n) for n in re.findall(r"\d+", problem)]
    signs = re.findall(r"[+-]", problem)
    assert problem.endswith("=") and len(signs) == len(numbers) - 1, f"no chain: {problem!r}"
    steps: list[str] = []
    total = numbers[0]
    for done, (sign, number) in enumerate(zip(signs, numbers[1:], strict=True), start=1):
        total += number if sign == "+" else -number
        rest = zip(signs[done:], numbers[done + 1 :], strict=True)
        steps.append(str(total) + "".join(f"{s}{n}" for s, n in rest))
    return "=".join(steps)


class Arithmetic(Task):
    """Own generator: `operands` numbers of `digits` digits with random signs between them.

    seed: which problems are drawn; the split of a problem does not depend on it.
    *_size: distinct problems per split.
    """

    kind: Literal["arithmetic"] = "arithmetic"
    operands: int = Field(default=3, ge=2, le=8)
    digits: int = Field(default=2, ge=1, le=6)
    train_size: int = Field(default=20_000, gt=0)
    validation_size: int = Field(default=256, gt=0)
    test_size: int = Field(default=1_000, gt=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _enough_problems_exist(self) -> Arithmetic:
        numbers = 9 * 10 ** (self.digits - 1)
        possible = numbers**self.operands * 2 ** (self.operands - 1)
        # Drawing distinct problems by rejection slows down as a split is used up.
        shares: dict[Split, float] = {"train": 0.85, "validation": 0.05, "test": 0.1}
        for split, share in shares.items():
            if self._sizes[split] > possible * share / 2:
                raise ValueError(
                    f"{split}_size is {self._sizes[split]}, but chains of {self.operands} numbers "
                    f"of {self.digits} digits give about {int(possible * share)} {split} problems: "
                    "ask for half of them at most, or for longer chains"
                )
        return self

    @property
    def _sizes(self) -> dict[Split, int]:
        return {
            "train": self.train_size,
            "validation": self.validation_size,
            "test": self.test_size,
        }

    def prompts(self, split: Split) -> list[Prompt]:
        return self._drawn[split]

    @cached_property
    def _drawn(self) -> dict[Split, list[Prompt]]:
        return {split: self._draw(split) for split in ("train", "validation", "test")}

    def _draw(self, split: Split) -> list[Prompt]:
        # A string seed is hashed the same way by every Python; a tuple's hash is not.
        source = random.Random(f"{self.seed}/{split}")
        chosen: dict[str, Prompt] = {}
        while len(chosen) < self._sizes[split]:
            text = self._chain(source)
            if split_of(text) == split and text not in chosen:
                completion = worked(text)
                chosen[text] = Prompt(
                    id=text,
                    messages=({"role": "user", "content": text},),
                    answer=completion.rsplit("=", 1)[-1],
                    domain="arithmetic",
                    completion=completion,
                )
        return list(chosen.values())

    def _chain(self, source: random.Random) -> str:
        low, high = 10 ** (self.digits - 1), 10**self.digits - 1
        text = str(source.randint(low, high))
        for _ in range(self.operands - 1):
            text += source.choice("+-") + str(source.randint(low, high))
        return text + "="

    def solution(self, prompt: Prompt) -> str:
        """The worked completion of a prompt, without an end token."""
        return worked(prompt.text)

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        """Right when the last number is, written exactly; the steps before it do not count.

        A completion of another form (a dangling `=`, two signs in a row) has no answer.
        """
        steps = completion.split("=")
        if not all(_CHAIN.fullmatch(step) for step in steps) or not _NUMBER.fullmatch(steps[-1]):
            return Grade(correct=False, answered=False, reason="no answer")
        return Grade(correct=steps[-1] == prompt.answer, answered=True, answer=steps[-1])

    def steps_right(self, prompt: Prompt, completion: str) -> bool:
        """Whether every written step is right too."""
        return completion == worked(prompt.text)
