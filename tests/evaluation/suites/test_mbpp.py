"""MBPP: the paper's split and prompt, and the references of the real data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.evaluation.sandbox import Isolation
from tandem.evaluation.suites.mbpp import MBPP

ROW = {
    "task_id": 11,
    "text": "Write a function to add.",
    "code": "def add(a, b):\r\n  return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(-1, 1) == 0"],
    "test_setup_code": "",
}


@pytest.fixture(scope="module")
def suite() -> MBPP:
    return MBPP(shots=0, workers=1, seconds=5.0)


def test_the_prompt_is_the_papers(suite: MBPP) -> None:
    prompt = suite.problem_of(ROW, 0)
    assert prompt.id == "mbpp-11"
    assert prompt.text == (
        "You are an expert Python programmer, and here is your task: Write a function to add. Your "
        "code should pass these tests:\n\nassert add(1, 2) == 3\nassert add(0, 0) == 0\n"
        "assert add(-1, 1) == 0\n[BEGIN]\n"
    )


@pytest.mark.parametrize(
    ("answer", "right", "reason"),
    [
        ("def add(a, b):\n    return a + b\n[DONE]", True, ""),
        ("def add(a, b):\n    return a + b\n[DONE]\n1 / 0", True, ""),
        ("[BEGIN]\ndef add(a, b):\n    return a + b\n[DONE]", True, ""),
        ("Here:\n```python\ndef add(a, b):\n    return a + b\n```\n[DONE]", True, ""),
        ("from operator import add\n[DONE]", True, ""),
        ("def add(a, b):\n    return a - b\n[DONE]", False, "wrong answer"),
        ("def plus(a, b):\n    return a + b\n[DONE]", False, "error: KeyError"),
        ("def add(a, b) return\n[DONE]", False, "error: SyntaxError"),
        ("[DONE]", False, "no answer"),
        ("", False, "no answer"),
    ],
)
def test_an_answer_is_graded_by_the_asserts(
    suite: MBPP, answer: str, right: bool, reason: str
) -> None:
    grade = suite.grade(suite.problem_of(ROW, 0), answer)
    assert (grade.correct, grade.reason) == (right, reason)
    assert grade.answered == bool(grade.answer) == (reason != "no answer")


def test_a_suite_of_code_says_beforehand_that_it_cannot_isolate(
    suite: MBPP, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.ready()
    nothing = Isolation(False, "unshare: Operation not permitted")
    monkeypatch.setattr("tandem.evaluation.sandbox.sandbox.isolation", lambda: nothing)
    with pytest.raises(
        ValueError, match=r"cannot be isolated here \(unshare: Operation not permitted"
    ):
        suite.ready()
    MBPP(allow_unisolated=True).ready()


def test_a_function_named_as_a_built_in_is_the_programs(suite: MBPP) -> None:
    row = ROW | {"code": "def sum(a, b): ...", "test_list": ["assert sum(10, 15) == 6"]}
    prompt = suite.problem_of(row, 0)
    assert json.loads(prompt.answer)["names"] == ["sum"]
    assert suite.grade(prompt, "def sum(a, b): return 6").correct


@pytest.mark.data
def test_the_data_are_the_papers_500_test_problems(test_data: Path) -> None:
    suite = MBPP(data_root=test_data)
    assert [p.id for p in suite.prompts("test")] == [f"mbpp-{n}" for n in range(11, 511)]
    # Three solved problems and the one to be solved.
    for prompt in suite.problems:
        assert prompt.text.count("[BEGIN]") == 4 and prompt.text.count("[DONE]") == 3
        assert prompt.text.endswith("[BEGIN]\n") and "\r" not in prompt.text
        assert "find the similar elements from the given two tuple lists" in prompt.text
    assert all(json.loads(p.answer)["names"] for p in suite.problems)


@pytest.mark.data
def test_a_sample_of_the_references_passes_and_the_neighbours_solution_fails(
    test_data: Path,
) -> None:
    suite = MBPP(data_root=test_data, workers=2, seconds=60.0)
    rows = suite.rows()
    # 126 redefines a built-in; 367 builds trees of a class that the answer has to define.
    chosen = [n - 11 for n in (11, 126, 367, 510)]
    right = [(suite.problems[n], rows[n]["code"]) for n in chosen]
    wrong = [(suite.problems[n], rows[n - 1]["code"]) for n in chosen]
    marks = [grade.correct for grade in suite.grade_many(right + wrong)]
    assert marks == [True] * 4 + [False] * 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.data
def test_all_500_reference_solutions_pass(test_data: Path) -> None:
    suite = MBPP(data_root=test_data, workers=2, seconds=60.0)
    items = [(p, row["code"]) for p, row in zip(suite.problems, suite.rows(), strict=True)]
    grades = suite.grade_many(items)
    assert [p.id for (p, _), g in zip(items, grades, strict=True) if not g.correct] == []


def test_solved_problems_that_the_data_lack_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "mbpp"
    folder.mkdir()
    row = {"id": "mbpp-11", "problem": ROW["text"], **{k: ROW[k] for k in ("code", "test_list")}}
    (folder / "problems.jsonl").write_text(json.dumps(row | {"test_setup_code": ""}) + "\n")
    with pytest.raises(ValueError, match=r"lacks the solved problems \[2, 3, 4\].*shots to 0"):
        MBPP(data_root=tmp_path).prompts("test")
    assert len(MBPP(data_root=tmp_path, shots=0).prompts("test")) == 1
