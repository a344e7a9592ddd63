"""Whole real suites: as many problems as published, and every gold answer right against itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.evaluation.suites import suite_named
from tandem.evaluation.suites.olympiadbench import without_dollars
from tandem.tasks.base import Prompt

SIZES = {
    "aime24": 30,
    "aime25": 30,
    "amc23": 40,
    "gsm8k": 1_319,
    "math500": 500,
    "minerva": 272,
    "olympiadbench": 675,
    "mmlu_stem": 3_018,
}
# Neighbours among the first 40 problems that do say the same thing in other words (x=5 and 5).
SYNONYMS = {"math500": 1, "olympiadbench": 0, "minerva": 0, "mmlu_stem": 0, "gsm8k": 0}


def gold_text(kind: str, prompt: Prompt, row: dict) -> str:
    """A completion that gives the gold answer as the source writes it."""
    answer = json.loads(prompt.answer)["letter"] if kind == "mmlu_stem" else str(row["answer"])
    if kind == "olympiadbench":
        answer = without_dollars(row["final_answer"][0])
    return f"So it is $\\boxed{{{answer}}}$."


@pytest.mark.data
@pytest.mark.parametrize(("kind", "count"), SIZES.items())
def test_every_gold_answer_is_right_against_itself(kind: str, count: int, test_data: Path) -> None:
    suite = suite_named(kind, {"data_root": test_data})
    prompts, rows = suite.problems, suite.rows()
    assert len(prompts) == count
    assert len({prompt.id for prompt in prompts}) == count, "scores are kept by id"
    assert all(prompt.text.strip() and prompt.answer for prompt in prompts)
    texts = [gold_text(kind, p, dict(row)) for p, row in zip(prompts, rows, strict=True)]
    grades = suite.grade_many(list(zip(prompts, texts, strict=True)))
    wrong = [
        (p.id, t, g.reason) for p, t, g in zip(prompts, texts, grades, strict=True) if not g.correct
    ]
    print(f"{kind}: {count - len(wrong)} of {count} gold answers right against themselves")
    assert wrong == []
    assert all(grade.answered and grade.answer for grade in grades)


@pytest.mark.data
@pytest.mark.parametrize(("kind", "count"), [("math500", 500), ("minerva", 272)])
def test_reference_solutions_are_right(kind: str, count: int, test_data: Path) -> None:
    suite = suite_named(kind, {"data_root": test_data})
    items = [(p, str(row["solution"])) for p, row in zip(suite.problems, suite.rows(), strict=True)]
    grades = suite.grade_many(items)
    right = sum(grade.correct for grade in grades)
    print(f"{kind}: {right} of {count} reference solutions right")
    assert right == len(items) == count


@pytest.mark.data
@pytest.mark.parametrize("kind", list(SYNONYMS))
def test_an_answer_to_another_problem_is_wrong(kind: str, test_data: Path) -> None:
    suite = suite_named(kind, {"data_root": test_data})
    prompts, rows = suite.problems[:40], suite.rows()[:40]
    texts = [gold_text(kind, p, dict(row)) for p, row in zip(prompts, rows, strict=True)]
    moved = [texts[-1], *texts[:-1]]
    asked = [(p, t) for p, t, own in zip(prompts, moved, texts, strict=True) if t != own]
    right = [
        t for (_, t), grade in zip(asked, suite.grade_many(asked), strict=True) if grade.correct
    ]
    assert len(asked) >= 25 and len(right) == SYNONYMS[kind], right
