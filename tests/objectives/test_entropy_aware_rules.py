"""EOPD's defaults, and what it refuses, each with its sentence."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from tandem.behaviours import Teacher
from tandem.objectives import EntropyAware
from tandem.types import SignalSpec


def test_the_defaults_are_the_papers() -> None:
    objective = EntropyAware()
    assert (objective.threshold, objective.alpha, objective.teacher_top_k) == (0.8, 1.0, 16)
    assert objective.needs() == SignalSpec(student_topk=16, teacher_topk=16, teacher_entropy=True)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"threshold": -0.1},
            "threshold is -0.1, but no entropy is below 0: give 0 to add the forward KL wherever "
            "the teacher is not certain, or the published 0.8.",
        ),
        (
            {"alpha": -1.0},
            "alpha is -1.0, which would drive the student away from the teacher: give 0 or more, "
            "1 as published.",
        ),
        (
            {"teacher_top_k": 0},
            "teacher_top_k is 0, but a support holds at least 1 token: give 1 or more, 16 as "
            "published.",
        ),
        (
            {"support": "full", "importance": "exact"},
            "importance exact is refused with support full: that loss never reads the sampled "
            "token, so a weight p/mu would bias it: use importance none.",
        ),
    ],
)
def test_nonsense_is_refused_in_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EntropyAware(**fields)
    assert caught.value.errors()[0]["msg"] == f"Value error, {sentence}"


def test_an_infinite_threshold_is_no_number_of_a_recipe() -> None:
    with pytest.raises(ValidationError, match="finite number"):
        EntropyAware(threshold=math.inf)


def test_another_law_without_a_weight_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        EntropyAware(support="sampled").check(Teacher(), updates_per_rollout=1)
    assert str(caught.value) == (
        "objective entropy_aware scores the drawn token as if the student had drawn it, but "
        "behaviour teacher draws from another law, which biases the gradient: set importance to "
        "exact, truncated or clipped, or use support student_topk or full."
    )
    EntropyAware().check(Teacher(), updates_per_rollout=2)
