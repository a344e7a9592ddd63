"""AOPD's defaults, and what it refuses, each with its sentence."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tandem.behaviours import Teacher
from tandem.objectives import Asymmetric
from tandem.types import SignalSpec


def test_the_defaults_are_the_papers_and_a_top_k_of_ours() -> None:
    objective = Asymmetric()
    assert (objective.threshold, objective.top_k) == (0.0, 64)
    assert objective.needs() == SignalSpec(sampled=True, teacher_topk=64)
    assert objective.reads_sampled()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"threshold": -1.1},
            "threshold is -1.1, but q(y) − p(y) lies in [−1, 1]: give a number there, 0 as "
            "published.",
        ),
        (
            {"top_k": 0},
            "top_k is 0, but a support holds at least 1 token: give 1 or more, say 64.",
        ),
        (
            {"importance_limit": 2.0},
            "importance_limit is 2.0, but importance none has no limit: remove it, or use "
            "importance truncated.",
        ),
    ],
)
def test_nonsense_is_refused_in_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Asymmetric(**fields)
    assert caught.value.errors()[0]["msg"] == f"Value error, {sentence}"


def test_another_law_without_a_weight_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        Asymmetric().check(Teacher(), updates_per_rollout=1)
    assert str(caught.value) == (
        "objective asymmetric scores the drawn token as if the student had drawn it, but "
        "behaviour teacher draws from another law, which biases the gradient: set importance to "
        "exact, truncated or clipped."
    )
