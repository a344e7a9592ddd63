"""MBPP: short functions asked for in a sentence and three asserts (arXiv 2108.07732).

The 500 problems of the paper's test split (task ids 11 to 510, § 2.1), asked as in its § 3: the
sentence, the three asserts, and three solved problems in front (task ids 2, 3 and 4, of the ten
kept for prompts).
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Literal

from tandem.evaluation.sandbox.extract import (
    cut,
    last_block,
    names_used,
    top_names,
    without_thoughts,
)
from tandem.evaluation.sandbox.forms import Checks, Program
from tandem.evaluation.suites.base import asked
from tandem.evaluation.suites.code import CodeSuite
from tandem.tasks.base import Prompt
from tandem.tasks.columns import Row, read_rows

FIRST, LAST = 11, 510
SHOWN = (2, 3, 4)
_HUB = "google-research-datasets/mbpp#full@"
_TEMPLATE = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass "
    "these tests:\n\n{tests}\n[BEGIN]\n"
)
_END = "[DONE]"


class MBPP(CodeSuite):
    """Right when the problem's own asserts pass.

    shots: solved problems in front of each, 3 as published or 0. The program is the last fenced
    block of Python; an answer without one is taken up to the first [DONE], after a [BEGIN] that it
    may repeat.
    """

    hub = _HUB + "test"
    folder = "mbpp"

    kind: Literal["mbpp"] = "mbpp"
    shots: Literal[0, 3] = 3

    def rows(self) -> list[Row]:
        return [row for row in read_rows(self.source()) if FIRST <= _number(row) <= LAST]

    @cached_property
    def preface(self) -> str:
        """The solved problems, as they stand in front of every other."""
        if self.shots == 0:
            return ""
        shown = _HUB + "prompt" if self.data_root is None else self.source()
        rows = {_number(row): row for row in read_rows(shown)}
        missing = [number for number in SHOWN if number not in rows]
        if missing:
            raise ValueError(
                f"{shown} lacks the solved problems {missing} that MBPP shows first: give the "
                "whole data set, or set shots to 0"
            )
        solved = [f"{_question(rows[n])}{_unix(rows[n]['code']).strip()}\n{_END}\n" for n in SHOWN]
        return "".join(solved)

    def problem_of(self, row: Row, number: int) -> Prompt:
        setup = _unix(row["test_setup_code"])
        tests = "\n".join([setup, *map(_unix, row["test_list"])])
        used = names_used(tests)
        needed = {
            # What the tests call is what the reference defines: no other name is the program's.
            "names": [name for name in top_names(_unix(row["code"])) if name in used],
            "tests": tests,
        }
        return Prompt(
            id=f"mbpp-{_number(row)}",
            messages=asked(self.preface + _question(row)),
            answer=json.dumps(needed),
        )

    def source_of(self, prompt: Prompt, completion: str) -> str:
        answer = without_thoughts(completion)
        block = last_block(answer)
        if block is not None:
            return block
        program = cut(answer.rpartition("[BEGIN]")[2], (_END,))
        return program if program.strip() else ""

    def program_of(self, prompt: Prompt, source: str) -> Program:
        needed = json.loads(prompt.answer)
        return Program(source, Checks(needed["tests"], tuple(needed["names"])))


def _question(row: Row) -> str:
    text = str(row["problem"] if "problem" in row else row["text"])
    return _TEMPLATE.format(text=text, tests="\n".join(map(_unix, row["test_list"])))


def _number(row: Row) -> int:
    return int(row["task_id"]) if "task_id" in row else int(str(row["id"]).removeprefix("mbpp-"))


def _unix(text: object) -> str:
    return str(text).replace("\r\n", "\n")
