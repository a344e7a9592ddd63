"""Behaviours × objectives: a legal cell follows what it declares, any other is refused."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from tandem.behaviours import AnyBehaviour, Behaviour, OffPolicyMix
from tandem.contract import examples
from tandem.contract.checks import (
    author_of,
    check_behaviour,
    check_objective,
    failures,
    refusal,
)
from tandem.contract.enumeration import declared_gradient, expected_gradient, law_at, make_world
from tandem.objectives import AnyObjective, DriftGate, Objective, ReverseKL
from tandem.training.components import kinds
from tandem.training.config import config_from_dict

BEHAVIOURS, OBJECTIVES = examples.behaviours(), examples.objectives()
CELLS = [(b, o) for o in OBJECTIVES for b in BEHAVIOURS]
LEGAL = [cell for cell in CELLS if refusal(cell[1], cell[0]) is None]
GRADIENTS = [(cell, False) for cell in LEGAL] + [
    (cell, True) for cell in LEGAL if refusal(cell[1], cell[0], updates=2) is None
]
REFUSED = [cell for cell in CELLS if refusal(cell[1], cell[0]) is not None]


def named(cell: tuple[Behaviour, Objective]) -> str:
    return f"{cell[0].kind}-{examples.label(cell[1])}"


def test_every_kind_has_an_example() -> None:
    assert {b.kind for b in BEHAVIOURS} == set(kinds(AnyBehaviour))
    assert {o.kind for o in OBJECTIVES} == set(kinds(AnyObjective))


def test_every_support_of_a_kind_of_its_own_has_an_example() -> None:
    """What the table says that a kind reads, it reads off these."""
    inheriting = {"entropy_aware", "entropy_selected"}  # every form of reverse_kl, one more choice
    for kind, cls in kinds(AnyObjective).items():
        if "support" in cls.model_fields and kind not in inheriting:
            named = {vars(o)["support"] for o in OBJECTIVES if o.kind == kind}
            assert named == set(get_args(cls.model_fields["support"].annotation)), kind


def test_an_objective_inside_another_is_named_by_its_kind() -> None:
    inside = ReverseKL(support="full")
    assert "kind" not in inside.model_fields_set
    assert examples.label(DriftGate(tau=1.0, objective=inside)) == (
        "drift_gate(objective=reverse_kl,tau=1.0)"
    )


def test_every_objective_is_legal_somewhere_and_every_behaviour_with_something() -> None:
    assert {o.kind for _, o in LEGAL} == {o.kind for o in OBJECTIVES}
    assert {b.kind for b, _ in LEGAL} == {b.kind for b in BEHAVIOURS}
    assert REFUSED


@pytest.mark.parametrize(
    ("cell", "stale"), GRADIENTS, ids=[f"{named(c)}{'-stale' * s}" for c, s in GRADIENTS]
)
def test_the_expected_gradient_is_the_declared_one(
    cell: tuple[Behaviour, Objective], stale: bool
) -> None:
    """stale: the student has moved since the rollout, where several updates may use one."""
    behaviour, objective = cell
    world = make_world(11, prefixes=8, stale=stale)
    law = law_at(behaviour, world)
    declared = declared_gradient(objective, law, world)
    assert declared is not None, f"{objective.kind} declares nothing"
    found, _ = expected_gradient(objective, law, world, author=author_of(behaviour, world.clock))
    torch.testing.assert_close(found, declared, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cell", REFUSED, ids=map(named, REFUSED))
def test_every_other_cell_is_refused_when_the_recipe_is_read(
    cell: tuple[Behaviour, Objective],
) -> None:
    behaviour, objective = cell
    reason = refusal(objective, behaviour)
    assert reason is not None and reason.endswith(".") and objective.kind in reason
    cell_of = {"behaviour": behaviour.model_dump(), "objective": objective.model_dump()}
    with_reference = {"reference": {"path": "student"}} if objective.needs().reference else {}
    with pytest.raises(ValueError) as caught:
        config_from_dict(recipe() | cell_of | with_reference)
    assert str(caught.value) == reason


def test_a_loss_of_drawn_tokens_is_refused_where_every_response_is_given() -> None:
    behaviour = OffPolicyMix(on_policy_fraction=0.0)
    assert refusal(ReverseKL(support="sampled"), behaviour) == (
        "objective reverse_kl trains on drawn tokens only, and with behaviour off_policy_mix every "
        "response is given whole, so it would train on nothing: use objective supervised, or use "
        "support student_topk or full."
    )
    assert refusal(ReverseKL(support="full"), behaviour) is None


def recipe() -> dict[str, object]:
    """The least that a recipe says."""
    return {
        "name": "cell",
        "student": {"path": "student"},
        "teacher": {"path": "teacher"},
        "task": "arithmetic",
        "rollout": {
            "prompts_per_step": 2,
            "samples_per_prompt": 1,
            "max_prompt_tokens": 32,
            "max_new_tokens": 16,
            "truncated": "keep",
        },
        "optimizer": {"lr": 1e-4},
        "training": {"steps": 10},
    }


@pytest.mark.parametrize("objective", OBJECTIVES, ids=examples.label)
def test_an_objective_passes_its_contract(objective: Objective) -> None:
    assert not list(failures(check_objective(objective)))


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=examples.label)
def test_a_behaviour_passes_its_contract(behaviour: Behaviour) -> None:
    assert not list(failures(check_behaviour(behaviour)))
