"""LiveCodeBench: a release of the user's, its window of dates, its tests and hostile files."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from tandem.evaluation.suites.livecodebench import LiveCodeBench, cases_of, same_output


def packed(tests: list[dict[str, str]]) -> str:
    """As published: JSON, pickled, compressed, in base64."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def stdin(given: str, expected: str) -> dict[str, str]:
    return {"input": given, "output": expected, "testtype": "stdin"}


def functional(given: str, expected: str) -> dict[str, str]:
    return {"input": given, "output": expected, "testtype": "functional"}


SUM: dict[str, Any] = {
    "question_title": "Sum",
    "question_content": "Print the sum of the numbers.",
    "platform": "atcoder",
    "question_id": "abc1_a",
    "contest_date": "2025-01-04T00:00:00",
    "starter_code": "",
    "public_test_cases": json.dumps([stdin("1 2\n", "3\n")]),
    "private_test_cases": packed([stdin("5 5\n", "10\n"), stdin("0.5 1\n", "1.50\n")]),
    "metadata": "{}",
}
PAIRS: dict[str, Any] = {
    "question_title": "Pairs",
    "question_content": "Return [i, i squared] for every i below n whose name is not in the list.",
    "platform": "leetcode",
    "question_id": "3333",
    "contest_date": "2025-03-30T00:00:00",
    "starter_code": "class Solution:\n    def pairs(self, n: int, left: List[str]) -> list:\n",
    "public_test_cases": json.dumps([functional('2\n["1"]', "[[0, 0]]")]),
    "private_test_cases": json.dumps([functional("3\n[]", "[[0, 0], [1, 1], [2, 4]]")]),
    "metadata": json.dumps({"func_name": "pairs"}),
}
ADDS = "```python\nprint(sum(map(float if '.' in (s := input()) else int, s.split())))\n```"
PAIRING = """```python
class Solution:
    def pairs(self, n: int, left: List[str]) -> list:
        return [(i, i * i) for i in range(n) if str(i) not in left]
```"""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write(tmp_path, SUM, PAIRS)


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "test9.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def suite_of(file: Path, start: str = "2025-01-01", end: str = "2025-12-31") -> LiveCodeBench:
    fields = {"kind": "livecodebench", "file": file, "start": start, "end": end}
    return LiveCodeBench.model_validate(fields | {"workers": 1, "seconds": 5.0})


def test_the_window_holds_its_first_and_last_day(release: Path) -> None:
    def ids(start: str, end: str) -> list[str]:
        return [prompt.id for prompt in suite_of(release, start, end).prompts("test")]

    assert ids("2025-01-04", "2025-03-30") == ["abc1_a", "3333"]
    assert ids("2025-01-05", "2025-03-30") == ["3333"]
    assert ids("2025-01-04", "2025-03-29") == ["abc1_a"]
    with pytest.raises(ValueError, match=r"no problem from 2024.*were from 2025-01-04 to 2025-03"):
        ids("2024-01-01", "2024-12-31")
    with pytest.raises(ValueError, match="starts on 2025-02-01, after its end 2025-01-01"):
        ids("2025-02-01", "2025-01-01")


def test_the_file_and_the_window_are_required(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)file.*start.*end"):
        LiveCodeBench.model_validate({"kind": "livecodebench"})
    with pytest.raises(ValueError, match="no data file"):
        suite_of(tmp_path / "missing.jsonl").prompts("test")


def test_the_prompt_is_the_published_one(release: Path) -> None:
    reads, returns = suite_of(release).problems
    assert reads.text.startswith("### Question:\nPrint the sum of the numbers.\n\n### Format: Read")
    end = "### Answer: (use the provided format with backticks)\n\n"
    assert reads.text.endswith("```python\n# YOUR CODE HERE\n```\n\n" + end)
    code = f"code within delimiters.\n```python\n{PAIRS['starter_code']}"
    assert code in returns.text and returns.text.endswith(end)
    assert suite_of(release).instruction.startswith("You are an expert Python programmer.")


def test_right_programs_pass_every_test(release: Path) -> None:
    suite = suite_of(release)
    reads, returns = suite.problems
    grades = suite.grade_many([(returns, PAIRING), (reads, ADDS), (reads, "Like so:\n" + ADDS)])
    assert [grade.correct for grade in grades] == [True] * 3
    assert grades[1].answer == grades[2].answer != grades[0].answer
    assert suite.grade_many([]) == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("print(3)", "test 2: wrong answer"),
        ("print(sum(map(int, input().split())))", "test 3: exit status 1"),
        ("print(sum(map(float, input().split())) + 1)", "test 1: wrong answer"),
        ("while True: pass", "test 1: timeout"),
        ("import os; os._exit(0)", "test 1: wrong answer"),
        ("import sys; sys.exit(1)", "test 1: exit status 1"),
        ("", "no answer"),
    ],
)
def test_a_wrong_script_says_which_test_it_failed(release: Path, answer: str, reason: str) -> None:
    suite = suite_of(release).model_copy(update={"seconds": 2.0})
    text = f"```python\n{answer}\n```"
    assert suite.grade(suite.problems[0], text).reason == reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("class Solution:\n    def pairs(self, n, left): return [[0, 0]]", "test 2: wrong answer"),
        (
            "class Solution:\n    def pears(self, n, left): return []",
            "test 1: error: AttributeError",
        ),
        ("def pairs(n, left): return [[0, 0]]", "test 1: error: KeyError"),
        ("class Solution:\n    def pairs(self, n): return []", "test 1: error: TypeError"),
    ],
)
def test_a_wrong_method_says_which_test_it_failed(release: Path, answer: str, reason: str) -> None:
    suite = suite_of(release)
    assert suite.grade(suite.problems[1], f"```python\n{answer}\n```").reason == reason


def test_an_answer_without_a_block_is_no_answer(release: Path) -> None:
    suite = suite_of(release)
    grade = suite.grade(suite.problems[0], "print(sum(map(int, input().split())))")
    assert (grade.correct, grade.answered, grade.reason) == (False, False, "no answer")


class Strikes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_hostile_release_is_refused_and_does_nothing(tmp_path: Path) -> None:
    struck = tmp_path / "struck"
    hostile = base64.b64encode(zlib.compress(pickle.dumps(Strikes(struck)))).decode()
    suite = suite_of(write(tmp_path, SUM | {"private_test_cases": hostile}))
    with pytest.raises(ValueError, match="only plain data are read"):
        suite.grade(suite.problems[0], ADDS)
    assert not struck.exists()


def test_a_problem_without_tests_cannot_be_graded(tmp_path: Path) -> None:
    empty = {"public_test_cases": "[]", "private_test_cases": "[]"}
    prompt = suite_of(write(tmp_path, SUM | empty)).problems[0]
    with pytest.raises(ValueError, match="has no tests"):
        cases_of(prompt)


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("3\n", "3", True),
        ("  3  \n\n", "3\n", True),
        ("1 2\n3", "1 2\n3\n", True),
        ("1.0 2", "1 2.00", True),
        ("YES", "yes", False),
        ("1 2", "1  2", True),
        ("a b", "a  b", False),
        ("1\n2", "1 2", False),
        ("0.3", "0.30000000000000004", False),
        ("", "", True),
        ("1", "", False),
        ("nan", "nan", True),
    ],
)
def test_outputs_are_the_same_line_by_line_as_text_or_as_numbers(
    printed: str, expected: str, same: bool
) -> None:
    assert same_output(printed, expected) is same
