"""The expected gradient of every form of TrustRegion: all tokens and both outcomes of the gate.

The truth is tests/oracles/trust_region.py, in Python floats.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from trust_region_forms import DRAWN, GATED, OUTLIERS, SUMMED, WEIGHTS, K, name, oracle_fields

from oracles import trust_region as oracle
from tandem.behaviours import (
    Behaviour,
    FixedExponentBlend,
    Student,
    Teacher,
    TemperatureWarmup,
    TrustRegionBlend,
)
from tandem.contract.enumeration import (
    World,
    declared_gradient,
    expected_gradient,
    law_at,
    make_world,
)
from tandem.objectives import ReverseKL, TrustRegion
from tandem.objectives.base import Objective

BEHAVIOURS: list[Behaviour] = [
    Student(),
    TemperatureWarmup(start_temperature=0.6, warmup_steps=10),
    TrustRegionBlend(budget=0.1, warmup_steps=10),
    FixedExponentBlend(exponent=0.5),
    Teacher(),
]
OVER_BEHAVIOURS = pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=name)


def law_of(behaviour: Behaviour, world: World) -> Tensor:
    """log mu, in float64 also where it is the student's own."""
    return world.drawn_from if behaviour.kind == "student" else law_at(behaviour, world)


def assert_as_the_oracle(
    objective: TrustRegion, law: Tensor, world: World, mass: Tensor, minus: bool = False
) -> None:
    """Value and gradient at every prefix, with mu(v) · weight(v) = mass [n, V]."""
    gradient, value = expected_gradient(objective, law, world)
    z, q = world.student_logits.tolist(), world.teacher_logp.tolist()
    rule = oracle_fields(objective)
    for n in range(len(z)):
        taken = oracle.baseline(z[n], q[n], **rule) if minus else 0.0
        expected = oracle.trust_region(
            z[n], q[n], mass[n].tolist(), top_k=objective.top_k or 0, minus=taken, **rule
        )
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


# ------------------------------------------------------------------ against the oracle


@pytest.mark.parametrize("fields", DRAWN, ids=name)
def test_tokens_of_the_student_give_the_gradient_of_the_paper(fields: dict[str, Any]) -> None:
    world = make_world(1)
    p = torch.softmax(world.student_logits, -1)
    assert_as_the_oracle(TrustRegion(**fields), p.log(), world, p)


@OVER_BEHAVIOURS
@pytest.mark.parametrize("fields", DRAWN, ids=name)
def test_exact_weights_give_it_under_every_behaviour(
    behaviour: Behaviour, fields: dict[str, Any]
) -> None:
    objective = TrustRegion(**fields, importance="exact")
    objective.check(behaviour, updates_per_rollout=4)
    world = make_world(2, stale=True)
    p = torch.softmax(world.student_logits, -1)
    assert_as_the_oracle(objective, law_of(behaviour, world), world, p)


@OVER_BEHAVIOURS
@pytest.mark.parametrize("fields", SUMMED, ids=name)
def test_sums_over_a_support_give_it_under_every_behaviour_without_weights(
    behaviour: Behaviour, fields: dict[str, Any]
) -> None:
    objective = TrustRegion(**fields)
    objective.check(behaviour, updates_per_rollout=4)
    world = make_world(3, stale=True)
    p = torch.softmax(world.student_logits, -1)
    if objective.support == "student_topk":
        ids = world.drawn_from.topk(K, dim=-1).indices
        assert not torch.equal(ids.sort(-1).values, p.topk(K, dim=-1).indices.sort(-1).values)
        p = p * torch.zeros_like(p).scatter(-1, ids, 1.0)
    assert_as_the_oracle(objective, law_of(behaviour, world), world, p)


@pytest.mark.parametrize("fields", DRAWN, ids=name)
def test_truncated_weights_keep_the_same_share_of_both_terms(fields: dict[str, Any]) -> None:
    objective = TrustRegion(**fields, importance="truncated", importance_limit=1.2)
    world = make_world(4)
    law, p = law_at(FixedExponentBlend(exponent=0.5), world), world.drawn_from.exp()
    mass = law.exp() * (p / law.exp()).clamp(max=1.2)
    assert 0 < int((mass < p - 1e-6).sum()) < p.numel() - 1
    assert_as_the_oracle(objective, law, world, mass)


@pytest.mark.parametrize("fields", DRAWN, ids=name)
def test_clipped_weights_cut_both_terms_by_the_side_of_the_mean_reward(
    fields: dict[str, Any],
) -> None:
    objective = TrustRegion(**fields, importance="clipped", importance_limit=0.2)
    world = make_world(5, stale=True)
    p, old = torch.softmax(world.student_logits, -1), world.drawn_from.exp()
    rule = oracle_fields(objective)
    mass = p.clone()
    for n, v in torch.cartesian_prod(torch.arange(p.shape[0]), torch.arange(p.shape[1])).tolist():
        log_rho = float(world.teacher_logp[n, v] - p[n, v].log())
        up, ratio = oracle.mean_reward(log_rho, **rule), float(p[n, v] / old[n, v])
        if (up > 0 and ratio > 1.2) or (up < 0 and ratio < 0.8):
            mass[n, v] = 0.0
    assert 0 < int((mass == 0).sum()) < mass.numel() / 2
    assert_as_the_oracle(objective, law_at(Teacher(), world), world, mass)


@pytest.mark.parametrize("fields", DRAWN, ids=name)
@pytest.mark.parametrize("weights", [{}, {"importance": "exact"}], ids=name)
def test_a_baseline_leaves_gradient_and_value_as_they_are(
    fields: dict[str, Any], weights: dict[str, Any]
) -> None:
    objective = TrustRegion(**fields, **weights, baseline="expected")
    world = make_world(6)
    p = torch.softmax(world.student_logits, -1)
    law = law_at(Teacher(), world) if weights else p.log()
    assert_as_the_oracle(objective, law, world, p)
    # Nor is it left out: what truncated weights keep of it does not cancel.
    truncated = TrustRegion(
        **fields, importance="truncated", importance_limit=1.2, baseline="expected"
    )
    law = law_at(FixedExponentBlend(exponent=0.5), world)
    assert_as_the_oracle(truncated, law, world, torch.minimum(p, 1.2 * law.exp()), minus=True)


@pytest.mark.parametrize("stale", [False, True])
@OVER_BEHAVIOURS
@pytest.mark.parametrize(
    "fields",
    [
        form | weights | baseline
        for form in DRAWN
        for weights in WEIGHTS
        for baseline in ({}, {"baseline": "expected"})
    ]
    + SUMMED,
    ids=name,
)
def test_declared_is_followed(behaviour: Behaviour, fields: dict[str, Any], stale: bool) -> None:
    world, objective = make_world(1, stale=stale), TrustRegion(**fields)
    law = law_of(behaviour, world)
    found, _ = expected_gradient(objective, law, world)
    torch.testing.assert_close(found, declared_gradient(objective, law, world))


def test_the_case_that_check_refuses_is_indeed_wrong() -> None:
    world = make_world(7)
    p, law = world.drawn_from.exp(), law_at(TrustRegionBlend(budget=0.1, warmup_steps=10), world)
    wrong, _ = expected_gradient(TrustRegion(top_k=K), law, world)
    right, _ = expected_gradient(TrustRegion(top_k=K), p.log(), world)
    assert (wrong - right).abs().max() > 0.01


# ------------------------------------------------------------------ the two gates


@pytest.mark.parametrize("outlier", OUTLIERS, ids=name)
@pytest.mark.parametrize("weights", [{}, *WEIGHTS], ids=name)
@pytest.mark.parametrize("baseline", ["none", "expected"])
def test_both_gates_have_one_expectation_under_every_weight(
    outlier: dict[str, Any], weights: dict[str, Any], baseline: Any
) -> None:
    world = make_world(8, stale=bool(weights))
    law = law_at(Teacher(), world) if weights else world.drawn_from
    found = [
        expected_gradient(
            TrustRegion(gate=gate, **outlier, **weights, baseline=baseline), law, world
        )
        for gate in ("sampled", "expected")
    ]
    torch.testing.assert_close(found[0], found[1])


def test_the_full_sum_is_the_expectation_of_the_drawn_token() -> None:
    world = make_world(9)
    full = TrustRegion(gate="expected", top_k=K, support="full")
    summed = expected_gradient(full, law_at(Teacher(), world), world)
    drawn = expected_gradient(TrustRegion(top_k=K), world.drawn_from, world)
    torch.testing.assert_close(summed, drawn)


# ------------------------------------------------------------------ reductions


@pytest.mark.parametrize(
    "fields",
    [
        {"gate": "none", "outlier": "mask", "floor": -1e9},
        {"gate": "none", "outlier": "clip", "floor": -1e9},
        {"gate": "sampled", "outlier": "clip", "floor": -1e9},
        {"gate": "expected", "outlier": "clip", "floor": -1e9},
    ],
    ids=name,
)
@pytest.mark.parametrize("baseline", ["none", "expected"])
def test_without_outliers_it_is_the_reverse_kl(fields: dict[str, Any], baseline: Any) -> None:
    world = make_world(10)
    weights: list[dict[str, Any]] = [{}, {"importance": "exact"}]
    for extra in weights:
        law = law_at(Teacher(), world) if extra else world.drawn_from
        base = ReverseKL(support="sampled", baseline=baseline, **extra)
        found = expected_gradient(TrustRegion(**fields, **extra, baseline=baseline), law, world)
        torch.testing.assert_close(found, expected_gradient(base, law, world))


def test_the_gate_that_trusts_everything_is_the_reverse_kl_of_the_full_vocabulary() -> None:
    world = make_world(11)
    fields: dict[str, Any] = {"gate": "expected", "outlier": "clip", "floor": -1e9}
    found = expected_gradient(TrustRegion(**fields, support="full"), world.drawn_from, world)
    base = expected_gradient(ReverseKL(support="full"), world.drawn_from, world)
    torch.testing.assert_close(found, base)


@pytest.mark.parametrize("fields", GATED + SUMMED, ids=name)
def test_at_teacher_equal_student_loss_and_gradient_are_0(fields: dict[str, Any]) -> None:
    world = make_world(12)
    same = replace(world, teacher_logp=torch.log_softmax(world.student_logits, -1))
    objective: Objective = TrustRegion(**fields)
    gradient, value = expected_gradient(objective, same.drawn_from, same)
    assert value.abs().max() < 1e-14
    assert gradient.abs().max() < 1e-14
