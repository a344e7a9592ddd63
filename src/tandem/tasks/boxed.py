r"""The published way to grade mathematics: the last `\boxed{…}` has to equal the gold answer."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.tasks.base import Grade, Prompt
from tandem.tasks.grading import GradingPool, Verdict, last_boxed
from tandem.tasks.spelling import vote

NO_ANSWER = Grade(correct=False, answered=False, reason="no answer")


def grade_boxed(pool: GradingPool, items: Sequence[tuple[Prompt, str]]) -> list[Grade]:
    r"""One grade per (prompt, completion); without a closed box there is no answer.

    Raises ValueError for a prompt without a gold answer.
    """
    for prompt, _ in items:
        if not prompt.answer:
            raise ValueError(
                f"problem {prompt.id!r} has no answer to grade by; name the answer_column"
            )
    boxes = [last_boxed(completion) for _, completion in items]
    pairs = [
        (prompt.answer, box)
        for (prompt, _), box in zip(items, boxes, strict=True)
        if box is not None
    ]
    verdicts = iter(pool.grade(pairs))
    return [NO_ANSWER if box is None else graded(next(verdicts), box) for box in boxes]


def graded(verdict: Verdict, box: str) -> Grade:
    """The grade of an answer that a box held."""
    # What is too long to parse is too long to count votes by.
    answer = "" if verdict.reason == "too long" else vote(box)
    return Grade(verdict.right, answered=True, reason=verdict.reason, answer=answer)
