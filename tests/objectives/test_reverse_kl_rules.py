"""Forms that are refused when the recipe is read, each with its sentence."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tandem.behaviours import (
    Behaviour,
    FixedBudgetBlend,
    FixedExponentBlend,
    Student,
    Teacher,
    TemperatureWarmup,
    TrustRegionBlend,
)
from tandem.objectives import AnyObjective, ReverseKL
from tandem.objectives.reverse_kl_rules import REALISATIONS, family

TOPK: dict[str, Any] = {"support": "student_topk"}
FULL: dict[str, Any] = {"support": "full"}
SAMPLED: dict[str, Any] = {"support": "sampled"}

PREFIX_ADVANTAGE = (
    "a KL summed over the prefix's tokens, used as the advantage of one of them, has expected "
    "gradient 0 and so no signal: use support sampled."
)
SINGLE_TOKEN = (
    "K2 estimates the sum from a single sampled token, and this support takes the sum itself: "
    "use support sampled."
)
REFUSED: list[tuple[dict[str, Any], str]] = [
    # No signal at all.
    (
        SAMPLED | {"realisation": "autograd"},
        "realisation autograd is refused with support sampled, tail none: autograd of "
        "log p(y) − log q(y) has expected gradient 0 and so no signal: use policy_gradient or k2.",
    ),
    (
        FULL | {"realisation": "policy_gradient"},
        "realisation policy_gradient is refused with support full, tail none: " + PREFIX_ADVANTAGE,
    ),
    (
        TOPK | {"realisation": "policy_gradient"},
        "realisation policy_gradient is refused with support student_topk, "
        "tail renormalise_weights: " + PREFIX_ADVANTAGE,
    ),
    (
        SAMPLED | {"tail": "renormalise"},
        "tail renormalise is refused with support sampled: a loss renormalised for both models "
        "on a single sampled token is identically 0: use tail none.",
    ),
    (
        TOPK | {"tail": "renormalise", "top_k": 1},
        "tail renormalise is refused with top_k 1: a loss renormalised for both models on a "
        "single token is identically 0: give top_k 2 or more, or use tail bucket.",
    ),
    # The wrong signal.
    (
        FULL | {"realisation": "k2"},
        "realisation k2 is refused with support full, tail none: " + SINGLE_TOKEN,
    ),
    (
        TOPK | {"tail": "bucket", "realisation": "k2"},
        "realisation k2 is refused with support student_topk, tail bucket: " + SINGLE_TOKEN,
    ),
    (
        TOPK | {"realisation": "autograd"},
        "realisation autograd is refused with support student_topk, tail renormalise_weights: "
        "differentiating p/m adds a drift along the support's mass m that the true gradient "
        "lacks: use detached, or tail renormalise.",
    ),
    (
        SAMPLED | {"realisation": "detached"},
        "realisation detached is refused with support sampled, tail none: a drawn token already "
        "comes in proportion to p, and weighing it by p again is wrong: use policy_gradient.",
    ),
    (
        SAMPLED | {"tail": "bucket"},
        "tail bucket is refused with support sampled: a bucket around a single sampled token is "
        "the divergence of another partition at every draw and no estimate of the reverse KL: "
        "use tail none.",
    ),
    (
        TOPK | {"importance": "exact"},
        "importance exact is refused with support student_topk: that loss never reads the "
        "sampled token, so a weight p/mu would bias it: use importance none.",
    ),
    (
        FULL | {"importance": "truncated", "importance_limit": 2.0},
        "importance truncated is refused with support full: that loss never reads the sampled "
        "token, so a weight p/mu would bias it: use importance none.",
    ),
    # No choice to make.
    (
        FULL | {"top_k": 16},
        "top_k is 16, but support full has no k: remove top_k, or use support student_topk or "
        "teacher_topk.",
    ),
    (
        SAMPLED | {"top_k": 4},
        "top_k is 4, but support sampled has no k: remove top_k, or use support student_topk or "
        "teacher_topk.",
    ),
    (
        TOPK | {"top_k": 0},
        "top_k is 0, but a support holds at least 1 token: give 1 or more, say 16.",
    ),
    *(
        (
            FULL | {"tail": tail},
            f"tail {tail} is refused with support full: support full leaves no tail: "
            "use tail none.",
        )
        for tail in ("renormalise_weights", "renormalise", "bucket")
    ),
    (
        SAMPLED | {"tail": "renormalise_weights"},
        "tail renormalise_weights is refused with support sampled: the weight of a single "
        "sampled token is 1 already: use tail none.",
    ),
    (
        FULL | {"realisation": "detached"},
        "realisation detached is refused with support full, tail none: on the full vocabulary it "
        "has the gradient of autograd at a higher price: use autograd.",
    ),
    (
        TOPK | {"tail": "renormalise", "realisation": "detached"},
        "realisation detached is refused with support student_topk, tail renormalise: both "
        "models are renormalised, so autograd is exact and without drift: use autograd.",
    ),
    (
        TOPK | {"tail": "bucket", "realisation": "detached"},
        "realisation detached is refused with support student_topk, tail bucket: the bucket "
        "closes the partition, so autograd is exact and without drift: use autograd.",
    ),
    # Weights.
    (
        SAMPLED | {"importance": "truncated"},
        "importance truncated needs importance_limit, the largest weight p/mu allowed: give a "
        "number of at least 1 (2, for example), or use importance exact.",
    ),
    (
        SAMPLED | {"importance": "exact", "importance_limit": 2.0},
        "importance_limit is 2.0, but importance exact has no limit: remove it, or use "
        "importance truncated.",
    ),
    (
        SAMPLED | {"importance": "truncated", "importance_limit": 0.5},
        "importance_limit is 0.5, which would cut the weight of tokens that the student drew "
        "itself: give a number of at least 1.",
    ),
]


@pytest.mark.parametrize("fields, sentence", REFUSED, ids=lambda f: str(f)[:70])
def test_a_form_without_the_right_signal_is_refused_with_the_reason(
    fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        ReverseKL(**fields)
    (error,) = caught.value.errors()
    assert error["msg"] == f"Value error, {sentence}"


def test_every_combination_is_either_legal_or_refused_by_one_of_these_rules() -> None:
    supports = ["full", "student_topk", "teacher_topk", "sampled"]
    tails = ["none", "renormalise_weights", "renormalise", "bucket"]
    realisations = ["autograd", "detached", "policy_gradient", "k2"]
    legal = set()
    for support, tail, realisation in product(supports, tails, realisations):
        fields: dict[str, Any] = {"support": support, "tail": tail, "realisation": realisation}
        try:
            ReverseKL(**fields)
        except ValidationError as error:
            (only,) = error.errors()
            assert only["type"] == "value_error", only
        else:
            legal.add((family(support), tail, realisation))
    assert legal == {(*key, choice) for key, choices in REALISATIONS.items() for choice in choices}


@pytest.mark.parametrize(
    "behaviour",
    [
        TemperatureWarmup(start_temperature=0.9, warmup_steps=15),
        TrustRegionBlend(budget=0.02, warmup_steps=15),
        FixedBudgetBlend(budget=0.02),
        FixedExponentBlend(exponent=0.5),
        Teacher(),
    ],
    ids=lambda b: b.kind,
)
def test_an_unweighted_sampled_token_of_another_law_is_refused(behaviour: Behaviour) -> None:
    with pytest.raises(ValueError) as caught:
        ReverseKL(support="sampled").check(behaviour, updates_per_rollout=1)
    assert str(caught.value) == (
        "objective reverse_kl scores the drawn token as if the student had drawn it, but behaviour "
        f"{behaviour.kind} draws from another law, which biases the gradient: set importance to "
        "exact, truncated or clipped, or use support student_topk or full."
    )


@pytest.mark.parametrize("behaviour", [Student(), FixedBudgetBlend(budget=0.0)])
def test_an_unweighted_sampled_token_of_the_student_is_accepted(behaviour: Behaviour) -> None:
    ReverseKL(support="sampled").check(behaviour, updates_per_rollout=1)


def test_the_default_is_the_students_top_16_with_detached_renormalised_weights() -> None:
    assert ReverseKL().model_dump() == {
        "kind": "reverse_kl",
        "support": "student_topk",
        "top_k": 16,
        "tail": "renormalise_weights",
        "realisation": "detached",
        "importance": "none",
        "importance_limit": None,
        "baseline": "none",
    }


@pytest.mark.parametrize(
    "fields, realisation",
    [
        (FULL, "autograd"),
        (TOPK | {"tail": "none"}, "detached"),
        (TOPK | {"tail": "renormalise"}, "autograd"),
        (TOPK | {"tail": "bucket"}, "autograd"),
        (SAMPLED, "policy_gradient"),
    ],
    ids=str,
)
def test_the_realisation_with_the_right_gradient_is_filled_in(
    fields: dict[str, Any], realisation: str
) -> None:
    assert ReverseKL(**fields).realisation == realisation


@pytest.mark.parametrize("fields", [FULL, TOPK, SAMPLED | {"importance": "exact"}], ids=str)
def test_a_resolved_configuration_reads_back_as_itself(fields: dict[str, Any]) -> None:
    objective = ReverseKL(**fields)
    assert TypeAdapter(AnyObjective).validate_python(objective.model_dump()) == objective
    assert TypeAdapter(AnyObjective).validate_json(objective.model_dump_json()) == objective


@pytest.mark.parametrize(
    "fields",
    [{"support": "topk"}, {"support": ["full"]}, {"tail": "clip"}, {"realisation": 3}, {"k": 4}],
    ids=str,
)
def test_a_value_that_does_not_exist_is_an_error_of_its_own_field(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ReverseKL(**fields)
    (error,) = caught.value.errors()
    assert error["loc"] == tuple(fields)
    assert error["type"] in ("literal_error", "extra_forbidden")
