"""What a drift gate hands on from the objective inside, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from drift_gate_forms import EXACT, OVER_INNER, gated_by
from gated_steps import (
    CLOCK,
    random_step,
)
from pydantic import ValidationError

from tandem.behaviours import Teacher
from tandem.contract.enumeration import (
    score_once,
)
from tandem.objectives import (
    DriftGate,
    Objective,
    ReverseKL,
    Supervised,
    TrustRegion,
)
from tandem.objectives.base import StepTokens
from tandem.training.config import config_from_dict
from tandem.types import SignalSpec


@OVER_INNER
def test_it_asks_for_what_the_inner_objective_asks_and_for_the_student_as_it_is(
    inner: Objective,
) -> None:
    objective = gated_by(inner)
    assert objective.needs() == inner.needs()
    assert objective.planned() == inner.planned() | SignalSpec(current=True)
    assert objective.reads_sampled() == inner.reads_sampled()
    assert objective.value_name == inner.value_name


def test_the_gate_of_the_inner_objective_is_enumerated_too() -> None:
    inner = TrustRegion(top_k=3)
    log_p, log_q = torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.0])
    found = gated_by(inner).gate_probability(student_logp=log_p, teacher_logp=log_q)
    expected = inner.gate_probability(student_logp=log_p, teacher_logp=log_q)
    assert found is not None and expected is not None and torch.equal(found, expected)


def test_the_metric_is_the_mean_drift_of_the_trained_tokens() -> None:
    objective = gated_by(ReverseKL(support="sampled", **EXACT))
    world, tokens, signal = random_step(objective, seed=10)
    plan = objective.plan(StepTokens(tokens, signal, CLOCK))
    loss, _ = score_once(
        objective, world.student_logits, tokens, signal, plan.weight.double(), CLOCK
    )
    assert tokens.current_logp is not None
    moved = zip(tokens.student_logp.tolist(), tokens.current_logp.tolist(), strict=True)
    kept = [abs(a - b) for (a, b), given in zip(moved, tokens.forced, strict=True) if not given]
    total, count = loss.metrics["drift"]
    assert total.item() == pytest.approx(math.fsum(kept)) and int(count) == len(kept)
    assert {"log_ratio", "importance_weight"} < set(loss.metrics)


# ------------------------------------------------------------------ configuration and refusals


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"objective": DriftGate(objective=ReverseKL(), tau=1.0), "tau": 1.0},
            "drift_gate is refused around another drift_gate, which would count the same drift "
            "twice: give the inner objective, and one tau.",
        ),
        (
            {"objective": Supervised(), "tau": 1.0},
            "drift_gate is refused around supervised, whose text does not age as the student "
            "moves, so that the gate would only shrink what is being learnt: use supervised by "
            "itself.",
        ),
        (
            {"objective": ReverseKL(), "tau": -1.0},
            "tau is -1.0, but below 0 the tokens that drifted most would count most: give 0 or "
            "more.",
        ),
        (
            {"objective": ReverseKL(), "tau": 1.0, "block": 0},
            "block is 0, but a block holds at least 1 token: give 1 or more, say 64.",
        ),
    ],
    ids=["nested", "supervised", "tau", "block"],
)
def test_nonsense_is_refused_in_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DriftGate(**fields)
    assert caught.value.errors()[0]["msg"] == f"Value error, {sentence}"


def test_tau_and_the_inner_objective_have_no_default() -> None:
    with pytest.raises(ValidationError) as caught:
        DriftGate.model_validate({})
    assert {error["loc"] for error in caught.value.errors()} == {("objective",), ("tau",)}


def test_the_inner_objectives_refusal_says_where_it_was_found() -> None:
    inner = ReverseKL(support="sampled")
    with pytest.raises(ValueError) as caught:
        gated_by(inner).check(Teacher(), updates_per_rollout=1)
    assert str(caught.value) == (
        "inside drift_gate: objective reverse_kl scores the drawn token as if the student had "
        "drawn it, but behaviour teacher draws from another law, which biases the gradient: set "
        "importance to exact, truncated or clipped, or use support student_topk or full."
    )
    gated_by(ReverseKL()).check(Teacher(), updates_per_rollout=4)


def test_it_is_written_down_whole_and_read_back() -> None:
    objective = gated_by(ReverseKL(top_k=3), tau=0.5)
    written = objective.model_dump()
    assert written["objective"]["top_k"] == 3 and written["objective"]["kind"] == "reverse_kl"
    recipe = {
        "name": "gate",
        "student": {"path": "student"},
        "teacher": {"path": "teacher"},
        "task": "arithmetic",
        "behaviour": "student",
        "objective": written,
        "rollout": {
            "prompts_per_step": 2,
            "samples_per_prompt": 1,
            "max_prompt_tokens": 32,
            "max_new_tokens": 16,
            "truncated": "keep",
        },
        "optimizer": {"lr": 1e-4},
        "training": {"steps": 10, "updates_per_rollout": 2},
    }
    assert config_from_dict(recipe).objective == objective
