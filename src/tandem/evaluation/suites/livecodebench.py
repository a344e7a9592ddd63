"""LiveCodeBench: contest problems by date, from a release that the user has (arXiv 2403.07974).

A release is a file of JSON lines as published (`test6.jsonl` of code_generation_lite, say). Only
problems of a window of dates are asked, because a model may have been trained on older ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from tandem.evaluation.sandbox.extract import last_block, without_thoughts
from tandem.evaluation.sandbox.forms import Checks, Outcome, Program
from tandem.evaluation.suites.base import asked
from tandem.evaluation.suites.code import CodeSuite, fingerprint
from tandem.evaluation.unpickle import packed_loads
from tandem.tasks.base import Grade, Prompt
from tandem.tasks.columns import Row, read_rows

# Bytes that the private tests of one problem may unpack to.
_LARGEST = 1 << 28
# Problems whose tests are unpacked at a time.
_AT_ONCE = 16
# The published template, with and without a beginning of the program.
_QUESTION = "### Question:\n{question}\n\n### Format: {form}\n```python\n{code}\n```\n\n"
_ANSWER = "### Answer: (use the provided format with backticks)\n\n"
_WITH_CODE = (
    "You will use the following starter code to write the solution to the problem and enclose your "
    "code within delimiters."
)
_WITHOUT_CODE = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when "
    "the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT."
)
# What the benchmark's own runner imports in front of every program, in its order.
_STARRED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random"),
    *("statistics", "itertools", "functools", "operator", "io", "sys", "json", "builtins"),
    "typing",
)
_PRELUDE = "".join(
    [
        *(f"from {module} import *\n" for module in _STARRED),
        *(f"import {module}\n" for module in _STARRED),
        "sys.setrecursionlimit(50000)\n",
    ]
)
# One case: arguments and result are JSON, which knows no tuples.
_CASE = """
import json
def plain(value):
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
given, expected = json.loads({given!r}), json.loads({expected!r})
assert plain({called}(*given)) == expected
"""


class LiveCodeBench(CodeSuite):
    """Right when every public and private test passes, each in a run of its own.

    file: the release. start, end: the first and last date of contests to be asked. seconds: for
    each test, 6 as published. The program is the last fenced block of Python, and there is no
    answer without one.
    """

    hub = "livecodebench/code_generation_lite"
    folder = "livecodebench"
    instruction = (
        "You are an expert Python programmer. You will be given a question (problem specification) "
        "and will generate a correct Python program that matches the specification and passes all "
        "tests."
    )

    kind: Literal["livecodebench"] = "livecodebench"
    file: Path
    start: date
    end: date
    seconds: float = Field(default=6.0, gt=0.0)

    @model_validator(mode="after")
    def _dates_in_order(self) -> LiveCodeBench:
        if self.start > self.end:
            raise ValueError(
                f"the window of livecodebench starts on {self.start}, after its end {self.end}: "
                "exchange the two"
            )
        return self

    def source(self) -> str:
        return str(self.file)

    def rows(self) -> list[Row]:
        """Raises ValueError where the window holds none."""
        rows = read_rows(self.source())
        chosen = [row for row in rows if self.start <= _date(row) <= self.end]
        if not chosen:
            dates = sorted(_date(row) for row in rows)
            raise ValueError(
                f"{self.file} holds no problem from {self.start} to {self.end}: its contests were "
                f"from {dates[0]} to {dates[-1]}"
            )
        return chosen

    def problem_of(self, row: Row, number: int) -> Prompt:
        code = str(row.get("starter_code") or "")
        form = _WITH_CODE if code else _WITHOUT_CODE
        question = _QUESTION.format(
            question=row["question_content"], form=form, code=code or "# YOUR CODE HERE"
        )
        needed = {
            "public": row["public_test_cases"],
            # Packed still: unpacked, the tests of a release take gigabytes.
            "private": row["private_test_cases"],
            "name": json.loads(row.get("metadata") or "{}").get("func_name", ""),
            "method": "class Solution" in code,
        }
        return Prompt(
            id=str(row["question_id"]),
            messages=asked(question + _ANSWER),
            answer=json.dumps(needed),
        )

    def source_of(self, prompt: Prompt, completion: str) -> str:
        block = last_block(without_thoughts(completion))
        return "" if block is None else _PRELUDE + block

    def program_of(self, prompt: Prompt, source: str) -> Program:
        """The program with the first test."""
        return _program(json.loads(prompt.answer), source, cases_of(prompt)[0])

    def grade_many(self, items: Sequence[tuple[Prompt, str]]) -> list[Grade]:
        """Raises ValueError as the other suites of code, and for tests that are not plain data."""
        places: dict[str, list[int]] = {}
        for place, (prompt, _) in enumerate(items):
            places.setdefault(prompt.id, []).append(place)
        grades: dict[int, Grade] = {}
        for problems in _batches(list(places)):
            chosen = [place for problem in problems for place in places[problem]]
            found = self._grade_at_once([items[place] for place in chosen])
            grades.update(zip(chosen, found, strict=True))
        return [grades[place] for place in range(len(items))]

    def _grade_at_once(self, items: Sequence[tuple[Prompt, str]]) -> list[Grade]:
        """One test of every answer at a time; an answer that fails one is not run again."""
        sources = [self.source_of(prompt, completion) for prompt, completion in items]
        needed = {prompt.id: json.loads(prompt.answer) for prompt, _ in items}
        tests = {prompt.id: cases_of(prompt) for prompt, _ in items}
        failed: dict[int, str] = {n: "no answer" for n, text in enumerate(sources) if not text}
        for turn in range(max(map(len, tests.values()))):
            playing = [
                (n, tests[prompt.id][turn], needed[prompt.id])
                for n, (prompt, _) in enumerate(items)
                if n not in failed and turn < len(tests[prompt.id])
            ]
            programs = [_program(problem, sources[n], test) for n, test, problem in playing]
            outcomes = self.sandbox.run_many(programs)
            for (n, test, _), outcome in zip(playing, outcomes, strict=True):
                if reason := _failure(test, outcome):
                    failed[n] = f"test {turn + 1}: {reason}"
        return [
            Grade(n not in failed, bool(text), failed.get(n, ""), fingerprint(text) if text else "")
            for n, text in enumerate(sources)
        ]


def cases_of(prompt: Prompt) -> list[dict[str, Any]]:
    """The problem's tests, public ones first. Raises ValueError for a file that is not plain."""
    needed = json.loads(prompt.answer)
    private = needed["private"]
    # A text in brackets is JSON; the others are a pickled text of JSON, packed.
    if not private.lstrip().startswith("["):
        private = packed_loads(private, largest=_LARGEST)
    tests = json.loads(needed["public"]) + json.loads(private)
    if not tests:
        raise ValueError(f"problem {prompt.id} of livecodebench has no tests: leave its row out")
    return tests


def _batches(problems: list[str]) -> list[list[str]]:
    return [problems[n : n + _AT_ONCE] for n in range(0, len(problems), _AT_ONCE)]


def _date(row: Row) -> date:
    return datetime.fromisoformat(str(row["contest_date"])).date()


def _program(needed: dict[str, Any], source: str, test: dict[str, Any]) -> Program:
    if test["testtype"] == "stdin":
        return Program(source, stdin=test["input"])
    # One argument per line.
    given = "[" + ",".join(line for line in test["input"].split("\n") if line.strip()) + "]"
    name = "Solution" if needed["method"] else needed["name"]
    called = f"Solution().{needed['name']}" if needed["method"] else name
    checks = _CASE.format(given=given, expected=test["output"], called=called)
    return Program(source, Checks(checks, (name,)))


def _failure(test: dict[str, Any], outcome: Outcome) -> str:
    """Why the test failed; empty where it passed."""
    if test["testtype"] != "stdin" or not outcome.passed:
        return outcome.reason
    return "" if same_output(outcome.stdout, test["output"]) else "wrong answer"


def same_output(printed: str, expected: str) -> bool:
    """Line by line without outer blanks: the same text, or the same numbers."""
    lines, wanted = (_lines(text) for text in (printed, expected))
    return len(lines) == len(wanted) and all(
        line == other or _same_numbers(line, other)
        for line, other in zip(lines, wanted, strict=True)
    )


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _same_numbers(line: str, other: str) -> bool:
    try:
        return [Decimal(word) for word in line.split()] == [Decimal(w) for w in other.split()]
    except InvalidOperation:
        return False
