r"""Suites whose answer stands in a box and is compared by math-verify."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from tandem.evaluation.suites.base import Suite, asked
from tandem.tasks.base import Grade, Prompt
from tandem.tasks.boxed import grade_boxed
from tandem.tasks.columns import Row, gold
from tandem.tasks.grading import GradingPool, shared_pool

STEP_BY_STEP = r"Please reason step by step, and put your final answer within \boxed{}."
"""The published system prompt (arXiv 2605.31159, evaluation protocol)."""

PLAIN_TEMPLATE = "{instruction}\n\nProblem: {problem}\n\nSolution:"
"""How a model of plain text reads it. Nothing is published for such models: this one is ours."""

PROBLEM_COLUMNS = ("problem", "question")


class MathSuite(Suite, ABC):
    r"""Problems with one answer. The completion's last `\boxed{…}` has to equal it.

    workers, limit: grading processes, and the seconds that each part of grading may take.
    """

    instruction = STEP_BY_STEP
    plain_template = PLAIN_TEMPLATE
    # The column that holds the answer, or a solution that ends with it.
    answer_column: ClassVar[str] = "answer"

    workers: int = Field(default=2, ge=1)
    limit: int = Field(default=3, ge=1)

    def problem_of(self, row: Row, number: int) -> Prompt:
        return Prompt(
            id=self.id_of(row, number),
            messages=asked(str(self.column(row, *PROBLEM_COLUMNS))),
            answer=gold(_whole(self.column(row, self.answer_column, "solution"))),
        )

    def column(self, row: Row, *names: str) -> Any:
        """The first of these columns that the row has. Raises ValueError where it has none."""
        for name in names:
            if name in row:
                return row[name]
        raise ValueError(
            f"a row of {self.source()} has none of the columns {', '.join(names)}: suite "
            f"{self.kind} reads those of {self.hub}"
        )

    @property
    def pool(self) -> GradingPool:
        # Not kept here: a suite is plain settings, which are copied and pickled.
        return shared_pool(workers=self.workers, limit=self.limit)

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        return self.grade_many([(prompt, completion)])[0]

    def grade_many(self, items: Sequence[tuple[Prompt, str]]) -> list[Grade]:
        return grade_boxed(self.pool, items)


def _whole(value: Any) -> Any:
    """27.0, as some sources store whole numbers, as 27."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
