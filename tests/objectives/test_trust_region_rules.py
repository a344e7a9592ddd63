"""Forms of TrustRegion that are refused when the recipe is read, each with its sentence."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from trust_region_forms import EVERY_FORM, name

from tandem.behaviours import Behaviour, FixedBudgetBlend, Student, Teacher, TemperatureWarmup
from tandem.objectives import AnyObjective, TrustRegion

NO_GATE: dict[str, Any] = {"gate": "none", "outlier": "mask"}
CLIP: dict[str, Any] = {"gate": "none", "outlier": "clip"}
EXPECTED: dict[str, Any] = {"gate": "expected"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"gate": "none"},
        "outlier forward_kl is refused with gate none: without a gate no token is an outlier: use "
        "outlier mask or clip, or gate sampled or expected, or objective reverse_kl.",
    ),
    (
        {"outlier": "mask", "top_k": 64},
        "top_k is 64, but outlier mask sums no forward KL: remove top_k, or use outlier "
        "forward_kl.",
    ),
    (
        {"top_k": 0},
        "top_k is 0, but a forward KL sums at least 1 token: give 1 or more, say 64.",
    ),
    (
        {"floor": -1.0},
        "floor is -1.0, but gate sampled with outlier forward_kl has none: remove floor, or use "
        "outlier clip.",
    ),
    (
        {"outlier": "mask", "floor": -1.0},
        "floor is -1.0, but gate sampled with outlier mask has none: remove floor, or use outlier "
        "clip.",
    ),
    (
        NO_GATE | {"floor": 0.0},
        "floor is 0.0, but it bounds the log-ratio log q − log p from below and would leave out "
        "tokens that both models agree on: give a number below 0, say -1.386.",
    ),
    (
        {"guidance_weight": -0.1},
        "guidance_weight is -0.1, which would push the student away from the teacher's text: give "
        "0 or more (0.001 in the paper).",
    ),
    (
        {"support": "full"},
        "support full is refused with gate sampled: a sum over tokens weighs each by its chance "
        "to pass the gate: use gate expected, or support sampled.",
    ),
    (
        NO_GATE | {"support": "student_topk"},
        "support student_topk is refused with gate none: a sum over tokens weighs each by its "
        "chance to pass the gate: use gate expected, or support sampled.",
    ),
    (
        EXPECTED | {"support": "full", "support_top_k": 16},
        "support_top_k is 16, but support full has no k: remove support_top_k, or use support "
        "student_topk.",
    ),
    (
        EXPECTED | {"support": "student_topk", "support_top_k": 0},
        "support_top_k is 0, but a support holds at least 1 token: give 1 or more, say 16.",
    ),
    (
        EXPECTED | {"support": "full", "importance": "exact"},
        "importance exact is refused with support full: that loss never reads the sampled token, "
        "so a weight p/mu would bias it: use importance none.",
    ),
    (
        EXPECTED | {"support": "student_topk", "baseline": "expected"},
        "baseline expected is refused with support student_topk: that loss sums over tokens and "
        "has no sampling variance to take off: use baseline none.",
    ),
    (
        {"importance": "truncated"},
        "importance truncated needs importance_limit, the largest weight p/mu allowed: give a "
        "number of at least 1 (2, for example), or use importance exact.",
    ),
]


@pytest.mark.parametrize("fields, sentence", REFUSED, ids=lambda f: str(f)[:70])
def test_fields_that_do_not_go_together_are_refused_with_the_reason(
    fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        TrustRegion(**fields)
    (error,) = caught.value.errors()
    assert error["msg"] == f"Value error, {sentence}"


@pytest.mark.parametrize(
    "fields",
    [{"gate": "open"}, {"outlier": "jsd"}, {"support": "teacher_topk"}, {"floor": float("-inf")}],
    ids=str,
)
def test_a_value_that_does_not_exist_is_an_error_of_its_own_field(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        TrustRegion(**(CLIP | fields))
    assert caught.value.errors()[0]["loc"] == tuple(fields)


@pytest.mark.parametrize(
    "fields, instead",
    [
        ({}, ", or use gate expected with support student_topk or full"),
        (EXPECTED, ", or use support student_topk or full"),
        (NO_GATE, ""),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "behaviour",
    [
        TemperatureWarmup(start_temperature=0.9, warmup_steps=15),
        FixedBudgetBlend(budget=0.02),
        Teacher(),
    ],
    ids=name,
)
def test_an_unweighted_token_of_another_law_is_refused(
    behaviour: Behaviour, fields: dict[str, Any], instead: str
) -> None:
    with pytest.raises(ValueError) as caught:
        TrustRegion(**fields).check(behaviour, updates_per_rollout=1)
    assert str(caught.value) == (
        "objective trust_region scores the drawn token as if the student had drawn it, but "
        f"behaviour {behaviour.kind} draws from another law, which biases the gradient: set "
        f"importance to exact, truncated or clipped{instead}."
    )
    TrustRegion(**fields, importance="exact").check(behaviour, updates_per_rollout=4)


def test_guidance_without_given_tokens_is_refused_unless_it_was_left_out() -> None:
    with pytest.raises(ValueError) as caught:
        TrustRegion(guidance_weight=0.001).check(Student(), updates_per_rollout=1)
    assert str(caught.value) == (
        "guidance_weight is 0.001, but behaviour student opens no response with the teacher's "
        "text, so no token would be guided: use behaviour teacher_prefix, or remove "
        "guidance_weight."
    )
    for accepted in (TrustRegion(), TrustRegion(guidance_weight=0.0)):
        accepted.check(Student(), updates_per_rollout=1)


def test_guidance_is_accepted_where_a_behaviour_opens_responses() -> None:
    class Opening(Student):
        def gives(self) -> bool:
            return True

    TrustRegion(guidance_weight=0.001).check(Opening(), updates_per_rollout=1)


def test_the_default_is_the_paper_with_its_top_64_and_a_sampled_gate() -> None:
    assert TrustRegion().model_dump() == {
        "kind": "trust_region",
        "gate": "sampled",
        "outlier": "forward_kl",
        "top_k": 64,
        "floor": None,
        "guidance_weight": None,
        "support": "sampled",
        "support_top_k": None,
        "positive_branch": "none",
        "importance": "none",
        "importance_limit": None,
        "baseline": "none",
    }


def test_the_floor_and_the_supports_size_are_filled_in_where_they_are_read() -> None:
    floor = pytest.approx(-1.3862943611198906, abs=1e-15)
    assert TrustRegion(gate="none", outlier="mask").floor == floor
    assert TrustRegion(outlier="clip").floor == floor
    assert TrustRegion(outlier="mask").floor is None
    assert TrustRegion(gate="expected", support="student_topk").support_top_k == 16


@pytest.mark.parametrize("objective", EVERY_FORM, ids=name)
def test_a_resolved_configuration_reads_back_as_itself(objective: TrustRegion) -> None:
    assert TypeAdapter(AnyObjective).validate_python(objective.model_dump()) == objective
    assert TypeAdapter(AnyObjective).validate_json(objective.model_dump_json()) == objective
