"""Whole evaluation sets: every reference equals itself and, nearly always, no other."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tandem.tasks.grading import GradingPool

# Pairs of neighbours that do say the same thing in other words (x=5 and 5).
SYNONYMS = {"math500": 1, "gsm8k_test": 0, "olympiadbench_math_en": 0, "minerva_math": 0}


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", list(SYNONYMS))
def test_references_equal_themselves_and_not_their_neighbours(name: str, test_data: Path) -> None:
    lines = (test_data / name / "problems.jsonl").read_text("utf-8").split("\n")
    answers = [str(json.loads(line)["answer"]) for line in lines if line]
    pool = GradingPool(workers=1, limit=5)
    same = pool.grade([(answer, answer) for answer in answers])
    others = [(a, b) for a, b in pairwise(answers) if a != b]
    different = pool.grade(others)
    pool.close()
    assert [a for a, v in zip(answers, same, strict=True) if not v.right] == []
    assert sum(v.right for v in different) <= SYNONYMS[name]
