"""HumanEval: which part of an answer is the program, and the references of the real data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.evaluation.sandbox.extract import last_block
from tandem.evaluation.suites.humaneval import HumanEval
from tandem.tasks.base import Grade, Prompt
from tandem.tasks.columns import read_rows

ROW = {
    "task_id": "HumanEval/0",
    "prompt": 'def thrice(x):\n    """Three times x.\n    >>> thrice(2)\n    6\n    """\n',
    "entry_point": "thrice",
    "test": "def check(candidate):\n    assert candidate(2) == 6\n    assert candidate(-1) == -3\n",
}


@pytest.fixture(scope="module")
def suite() -> HumanEval:
    return HumanEval(workers=1)


@pytest.fixture(scope="module")
def prompt(suite: HumanEval) -> Prompt:
    return suite.problem_of(ROW, 0)


def test_it_asks_with_the_beginning_or_in_words(prompt: Prompt) -> None:
    assert prompt.id == "HumanEval/0" and prompt.text == ROW["prompt"]
    asked = HumanEval(form="chat").problem_of(ROW, 0)
    assert ROW["prompt"] in asked.text and "```python" in asked.text
    assert asked.answer == prompt.answer


RIGHT = [
    "    return 3 * x\n",
    "    return 3 * x\n\ndef other():\n    return 1 / 0\n\nprint(1 / 0)",
    "    return 3 * x\n# What follows is not part of it\n1 / 0",
    "\n    y = 3 * x\n    return y\nif __name__ == '__main__':\n    1 / 0",
    "def thrice(x):\n    return 3 * x",
    "```python\ndef thrice(x):\n    return 3 * x\n```",
    "```\ndef thrice(x):\n    return 3 * x\n```\nThat is it.",
    "Wrong first:\n```python\ndef thrice(x):\n    return x\n```\nNow:\n```py\n"
    "def thrice(x):\n    return helper(x)\n\ndef helper(x):\n    return 3 * x\n```",
    "```python\n    return 3 * x\n```",
    "```python\ndef thrice(x):\n    return 3 * x\n```\nRun it:\n```bash\npython thrice.py\n```",
    "```python\ndef thrice(x):\n    return 3 * x\n",
    "<think>```python\ndef thrice(x): return x\n```</think>\n"
    "```python\ndef thrice(x): return 3 * x\n```",
]


@pytest.mark.parametrize("answer", RIGHT)
def test_right_answers_are_right_however_they_are_given(
    suite: HumanEval, prompt: Prompt, answer: str
) -> None:
    grade = suite.grade(prompt, answer)
    assert grade.correct and grade.answered and grade.reason == "" and len(grade.answer) == 16


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("    return x\n", "wrong answer"),
        ("    return 3 * x +\n", "error: SyntaxError"),
        ("    return 3 * y\n", "error: NameError"),
        ("    import sys; sys.exit(0)\n", "error: ProgramError"),
        ("    while True: pass\n", "timeout"),
        ("```python\nthrice = None\n```", "error: TypeError"),
    ],
)
def test_wrong_answers_say_why(prompt: Prompt, answer: str, reason: str) -> None:
    grade = HumanEval(workers=1, seconds=3.0).grade(prompt, answer)
    assert (grade.correct, grade.answered, grade.reason) == (False, True, reason)


@pytest.mark.parametrize("answer", ["", "  \n", "\n# nothing", "<think>return 3 * x"])
def test_an_answer_without_a_program_is_no_answer(
    suite: HumanEval, prompt: Prompt, answer: str
) -> None:
    expected = "no answer" if "<think>" not in answer else "error: SyntaxError"
    grade = suite.grade(prompt, answer)
    assert not grade.correct and grade.reason == expected


def test_equal_programs_share_an_answer_and_others_do_not(suite: HumanEval, prompt: Prompt) -> None:
    texts = [
        "    return 3 * x\n",
        "    return 3 * x\n\ndef other(): pass",
        "    return x * 3\n",
        "",
    ]
    answers = [grade.answer for grade in suite.grade_many([(prompt, text) for text in texts])]
    assert answers[0] == answers[1] and len(set(answers)) == 3 and answers[3] == ""
    fenced = suite.grade_many([(prompt, f"```python\n{text}```") for text in (texts[0], texts[0])])
    assert fenced[0] == fenced[1] != Grade(False, False)


@pytest.mark.parametrize(
    ("answer", "block"),
    [
        ("no block", None),
        ("```\n\n```", None),
        ("```json\n{}\n```", None),
        ("```python\na\n```\n```python\nb", "b"),
        ("```python\na\n```python\nb\n```", "b\n"),
        ("  ```python\n  a\n  ```", "  a\n"),
        ("``` python\na\n```", "a\n"),
        ("```Python\na\n```", "a\n"),
        ("inline ```python code``` only", None),
    ],
)
def test_the_last_block_of_python_is_found(answer: str, block: str | None) -> None:
    assert last_block(answer) == block


@pytest.mark.data
def test_the_data_are_the_164_problems(test_data: Path) -> None:
    problems = HumanEval(data_root=test_data).prompts("test")
    assert [p.id for p in problems] == [f"HumanEval/{n}" for n in range(164)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.data
def test_all_164_reference_solutions_pass(test_data: Path) -> None:
    suite = HumanEval(data_root=test_data, workers=2, seconds=60.0)
    rows = read_rows(suite.source())
    answers = [row["canonical_solution"] for row in rows]
    grades = suite.grade_many(list(zip(suite.problems, answers, strict=True)))
    assert [p.id for p, g in zip(suite.problems, grades, strict=True) if not g.correct] == []


@pytest.mark.data
def test_a_sample_of_the_references_passes_and_the_neighbours_solution_fails(
    test_data: Path,
) -> None:
    suite = HumanEval(data_root=test_data, workers=2, seconds=60.0)
    rows = read_rows(suite.source())
    # Among these are the three whose tests use a helper of the beginning: 32, 38 and 50.
    chosen = [0, 32, 38, 50, 100, 163]
    right = [(suite.problems[n], rows[n]["canonical_solution"]) for n in chosen]
    wrong = [(suite.problems[n], rows[n - 1]["canonical_solution"]) for n in chosen]
    marks = [grade.correct for grade in suite.grade_many(right + wrong)]
    assert marks == [True] * 6 + [False] * 6
