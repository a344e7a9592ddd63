"""Pairs of a gold answer and a completion that are easily graded wrongly, as a file has them.

A row of tricky_answers.jsonl: gold, completion, right, why; `before` × `times` and then
`inside` × `inside_times` stand in front of the completion.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tandem.tasks.base import Prompt
from tandem.tasks.math import Math

LINES = (Path(__file__).parent / "tricky_answers.jsonl").read_text("utf-8").split("\n")
ROWS: list[dict[str, Any]] = [json.loads(line) for line in LINES if line]
HOSTILE = [row for row in ROWS if row["why"].startswith("hostile")]
OTHERS = [row for row in ROWS if not row["why"].startswith("hostile")]


def completion(row: dict[str, Any]) -> str:
    before = row.get("before", "") * row.get("times", 0)
    return before + row.get("inside", "") * row.get("inside_times", 0) + row["completion"]


def graded_otherwise(rows: list[dict[str, Any]], *, limit: int) -> list[tuple[str, str, str]]:
    """The rows that are not graded as they say."""
    task = Math(train="unused.jsonl", workers=2, limit=limit)
    items = [
        (Prompt(id=str(n), messages=({"role": "user", "content": "?"},), answer=row["gold"]), text)
        for n, (row, text) in enumerate((row, completion(row)) for row in rows)
    ]
    grades = task.grade_many(items)
    return [
        (row["gold"], text[-80:], f"{row['why']} ({grade.reason})")
        for row, (_, text), grade in zip(rows, items, grades, strict=True)
        if grade.correct is not row["right"]
    ]


def test_tricky_pairs_are_graded_as_written() -> None:
    right = sum(row["right"] for row in OTHERS)
    print(f"{len(OTHERS)} tricky pairs, {right} of them right")
    assert graded_otherwise(OTHERS, limit=3) == []


def test_hostile_answers_are_wrong_and_do_no_harm() -> None:
    assert graded_otherwise(HOSTILE, limit=1) == []


def test_the_file_has_what_it_should() -> None:
    assert len(ROWS) >= 80 and len(HOSTILE) >= 10
    assert len({(row["gold"], completion(row)) for row in ROWS}) == len(ROWS), "no pair twice"
    assert sum(len(completion(row)) >= 30_000 for row in ROWS) >= 4
    assert min(sum(row["right"] for row in ROWS), sum(not row["right"] for row in ROWS)) >= 80
