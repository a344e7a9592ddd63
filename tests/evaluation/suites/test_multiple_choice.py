"""Multiple choice: the letter in the box, and the order in which choices are shown."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tandem.evaluation.suites import suite_named
from tandem.evaluation.suites.gpqa import COLUMNS, GPQADiamond
from tandem.evaluation.suites.mmlu import SUBJECTS, MMLURedux, MMLUStem
from tandem.evaluation.suites.multiple_choice import chosen

CHOICES = ["an acid", "a base", "$x^2$", "None of the above"]


@pytest.mark.parametrize(
    ("box", "letter"),
    [
        ("C", "C"),
        ("c", "C"),
        ("(C)", "C"),
        ("C)", "C"),
        ("C.", "C"),
        (r"\text{C}", "C"),
        (r"\textbf{(C)}", "C"),
        (r"\mathrm{C}", "C"),
        ("$C$", "C"),
        (r"\text{C) } x^2", "C"),
        ("C: x^2", "C"),
        ("x^2", "C"),
        ("a base", "B"),
        ("A base.", "B"),
        (r"\text{an acid}", "A"),
        ("None of the above", "D"),
        ("E", None),
        ("C and D", None),
        ("A, B, C or D", None),
        ("A) or B)", None),
        ("A/B", None),
        ("C) x, not B", "C"),
        ("D, since A and B are out", "D"),
        ("CD", None),
        ("3", None),
        ("acid", None),
        ("", None),
    ],
)
def test_a_choice_is_named_by_its_letter_or_its_words(box: str, letter: str | None) -> None:
    assert chosen(box, CHOICES) == letter


def test_a_long_list_of_letters_is_read_at_once() -> None:
    start = time.process_time()
    assert chosen("A," + " , B , " * 50_000 + "x!", CHOICES) == "A"
    assert time.process_time() - start < 2.0


def test_a_letter_is_a_letter_also_where_choices_are_letters() -> None:
    assert chosen("C", ["C", "B", "A", "D"]) == "C"


def test_a_question_shows_its_choices_and_asks_for_a_letter() -> None:
    row = {"id": "q", "problem": "Which {choices}?", "choices": CHOICES, "answer": 1}
    suite = MMLUStem()
    prompt = suite.problem_of(row, 0)
    assert prompt.text == (
        "Which {choices}?\n\nA) an acid\nB) a base\nC) $x^2$\nD) None of the above\n\n"
        "Give the letter of the right choice as the final answer."
    )
    grade = suite.grade(prompt, r"It is \boxed{B}.")
    assert (grade.correct, grade.answer) == (True, "B")
    assert suite.grade(prompt, r"It is \boxed{\text{(A)}}").answered
    assert suite.grade(prompt, "It is B.").reason == "no answer"
    assert suite.grade(prompt, r"\boxed{B or C}").reason == "no choice"


def gpqa_row(number: int) -> dict[str, str]:
    answers = {column: f"{column} {number}" for column in COLUMNS}
    return {"Record ID": f"rec{number}", "Question": f"Question {number}?", **answers}


def test_gpqa_shuffles_by_the_problems_id_alone() -> None:
    suite = GPQADiamond()
    prompts = [suite.problem_of(gpqa_row(n), n) for n in range(200)]
    again = [suite.problem_of(gpqa_row(n), n + 7) for n in reversed(range(200))]
    assert prompts == again[::-1], "neither its place nor what came before moves a choice"
    letters = [json.loads(p.answer)["letter"] for p in prompts]
    # 200 draws over four letters: 50 ± 6 each.
    assert all(25 < letters.count(letter) < 75 for letter in "ABCD")
    for n, prompt in enumerate(prompts):
        data = json.loads(prompt.answer)
        assert data["choices"]["ABCD".index(data["letter"])] == f"Correct Answer {n}"
        assert suite.grade(prompt, f"\\boxed{{{data['letter']}}}").correct


def test_redux_asks_only_questions_that_were_found_without_a_fault(tmp_path: Path) -> None:
    assert len(SUBJECTS.split()) == len(set(SUBJECTS.split())) == 57
    folder = tmp_path / "mmlu_redux"
    folder.mkdir()
    rows = [
        {"id": f"virology-{n}", "question": f"{n}?", "choices": CHOICES, "answer": n % 4}
        | {"error_type": "ok" if n % 3 else "wrong_groundtruth"}
        for n in range(9)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = suite_named("mmlu_redux", {"data_root": tmp_path})
    assert isinstance(suite, MMLURedux)
    assert [p.id for p in suite.problems] == [f"virology-{n}" for n in (1, 2, 4, 5, 7, 8)]
    assert json.loads(suite.problems[0].answer)["letter"] == "B"
