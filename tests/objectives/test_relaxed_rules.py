"""REOPOLD's defaults, and what it refuses, each with its sentence."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tandem.behaviours import Teacher
from tandem.objectives import Relaxed
from tandem.types import SignalSpec


def test_the_defaults_are_the_papers_and_those_that_are_ours() -> None:
    objective = Relaxed()
    assert (objective.mixing, objective.stages, objective.support) == (0.2, "two", "sampled")
    assert (objective.switch_step, objective.top_fraction) == (None, 0.2)
    assert objective.needs() == SignalSpec(sampled=True, student_entropy=True)
    assert objective.planned() == SignalSpec(sampled=True)
    one = Relaxed(stages="one")
    assert one.top_fraction is None and one.planned() == SignalSpec()
    assert one.needs() == SignalSpec(sampled=True)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"mixing": 0.6},
            "mixing is 0.6, but λ lies in [0, 0.5]: beyond, the floor log(λ/(1−λ)) would reward "
            "tokens that the teacher finds less likely than the student: give 0.2, as published.",
        ),
        (
            {"mixing": -0.1},
            "mixing is -0.1, but λ lies in [0, 0.5]: beyond, the floor log(λ/(1−λ)) would reward "
            "tokens that the teacher finds less likely than the student: give 0.2, as published.",
        ),
        (
            {"stages": "one", "switch_step": 10},
            "switch_step is 10, but stages one has no selection to switch: remove switch_step, or "
            "use stages two.",
        ),
        (
            {"stages": "one", "top_fraction": 0.3},
            "top_fraction is 0.3, but stages one selects nothing: remove top_fraction, or use "
            "stages two.",
        ),
        (
            {"top_fraction": 0.0},
            "top_fraction is 0.0, but the share of tokens that count lies in (0, 1]: give 0.2, for "
            "example.",
        ),
        (
            {"switch_step": -1},
            "switch_step is -1, but steps count from 0: give 0 to refine from the start, or leave "
            "it out for half of the run.",
        ),
        (
            {"support": "full"},
            "stages two is refused with support full: exploration selects by the drawn token, "
            "which that loss never reads: use support sampled, or stages one.",
        ),
        (
            {"baseline": "expected"},
            "baseline expected is refused with stages two: exploration would take it off the "
            "tokens it keeps alone, which biases the gradient: use baseline none, or stages one.",
        ),
    ],
)
def test_nonsense_is_refused_in_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Relaxed(**fields)
    assert caught.value.errors()[0]["msg"] == f"Value error, {sentence}"


@pytest.mark.parametrize(("stages", "end"), [("one", ""), ("two", " with stages one")])
def test_another_law_without_a_weight_is_refused(stages: Any, end: str) -> None:
    with pytest.raises(ValueError) as caught:
        Relaxed(stages=stages).check(Teacher(), updates_per_rollout=1)
    assert str(caught.value) == (
        "objective relaxed scores the drawn token as if the student had drawn it, but behaviour "
        "teacher draws from another law, which biases the gradient: set importance to exact, "
        f"truncated or clipped, or use support full{end}."
    )
