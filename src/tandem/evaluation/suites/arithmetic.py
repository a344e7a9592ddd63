"""The embedded pair's own benchmark: the test split of the arithmetic task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from pydantic import Field

from tandem.evaluation.suites.base import Suite, asked
from tandem.tasks.arithmetic import Arithmetic
from tandem.tasks.base import Grade, Prompt
from tandem.tasks.columns import Row


class ArithmeticSuite(Suite):
    """Chains of additions and subtractions from `tandem.tasks.arithmetic`, which needs no data;
    16 samples each. operands, digits, seed: as there. problems_made: how many chains."""

    hub = "generated"
    folder = ""

    kind: Literal["arithmetic"] = "arithmetic"
    samples: int = Field(default=16, gt=0)
    # A worked chain of eight numbers of six digits takes about 230 characters; of three, 12.
    max_new_tokens: int = Field(default=64, gt=0)
    operands: int = Field(default=3, ge=2, le=8)
    digits: int = Field(default=2, ge=1, le=6)
    problems_made: int = Field(default=1_000, gt=0)
    seed: int = Field(default=0, ge=0)

    @cached_property
    def task(self) -> Arithmetic:
        """The task whose test split this is. Raises ValueError where there are too few chains."""
        return Arithmetic(
            operands=self.operands,
            digits=self.digits,
            seed=self.seed,
            test_size=self.problems_made,
            # Their sizes move no test problem; small ones leave room for short chains.
            train_size=1,
            validation_size=1,
        )

    def source(self) -> str:
        return f"tandem's own chains, seed {self.seed}"

    def rows(self) -> Sequence[Row]:
        return [{"problem": p.text, "answer": p.answer} for p in self.task.prompts("test")]

    def problem_of(self, row: Row, number: int) -> Prompt:
        del number
        text = str(row["problem"])
        return Prompt(id=text, messages=asked(text), answer=str(row["answer"]), domain="arithmetic")

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        return self.task.grade(prompt, completion)
