"""Minerva's OCW problems: undergraduate science and mathematics (arXiv 2206.14858)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from tandem.evaluation.suites.mathematics import MathSuite
from tandem.tasks.base import Grade, Prompt
from tandem.tasks.grading import last_boxed
from tandem.tasks.spelling import number


class Minerva(MathSuite):
    """272 problems of MIT OpenCourseWare, many of them with measured quantities; 64 samples each.

    tolerance: relative, between a number and a numeric gold. Golds are rounded to two or three
    digits; the set's usual grader (Qwen2.5-Math's) takes 1e-4, math-verify six decimals.
    """

    hub = "math-ai/minervamath@test"
    folder = "minerva_math"

    kind: Literal["minerva"] = "minerva"
    samples: int = Field(default=64, gt=0)
    tolerance: float = Field(default=1e-4, ge=0.0, lt=1.0)

    def grade_many(self, items: Sequence[tuple[Prompt, str]]) -> list[Grade]:
        grades = super().grade_many(items)
        return [
            replace(grade, correct=True, reason="")
            if grade.answered and not grade.correct and self._close(prompt.answer, completion)
            else grade
            for grade, (prompt, completion) in zip(grades, items, strict=True)
        ]

    def _close(self, wanted: str, completion: str) -> bool:
        box = last_boxed(completion)
        gold, given = number(wanted), None if box is None else number(box)
        if gold is None or given is None:
            return False
        return math.isclose(gold, given, rel_tol=self.tolerance, abs_tol=0.0)
