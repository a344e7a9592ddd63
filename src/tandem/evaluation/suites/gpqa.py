"""GPQA-Diamond: questions that experts get right and others do not (arXiv 2311.12022)."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from tandem.evaluation.suites.multiple_choice import ChoiceSuite, choice_prompt
from tandem.tasks.base import Prompt
from tandem.tasks.columns import Row

COLUMNS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class GPQADiamond(ChoiceSuite):
    """198 questions with four choices; 32 samples each.

    The hub asks for consent first. The source names the right answer first, so the choices are
    shuffled, by the problem's id alone: every model, sample and seed sees the same order.
    """

    hub = "Idavidrein/gpqa#gpqa_diamond@train"
    folder = "gpqa_diamond"

    kind: Literal["gpqa_diamond"] = "gpqa_diamond"
    samples: int = Field(default=32, gt=0)

    def id_of(self, row: Row, number: int) -> str:
        return str(row["Record ID"]) if "Record ID" in row else super().id_of(row, number)

    def problem_of(self, row: Row, number: int) -> Prompt:
        identity = self.id_of(row, number)
        order = list(range(len(COLUMNS)))
        # Seeded by text: the same order in every process and version of Python.
        Random(f"gpqa {identity}").shuffle(order)
        choices = [str(row[COLUMNS[i]]).strip() for i in order]
        return choice_prompt(identity, str(row["Question"]), choices, order.index(0))
