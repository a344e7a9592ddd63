"""What a step trains on, before any gradient, and how much of it there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from sweep_cases import Cast, make_cast
from training_tiny import CLOCK

from tandem.objectives import ReverseKL
from tandem.training.parallel import World, open_world, shard
from tandem.training.step import StepModule, decoder_layers
from tandem.training.update import Scored, accumulate_gradient, score
from tandem.types import Rollout

SAMPLED = ReverseKL(support="sampled")


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(torch.device("cpu")) as world:
        yield world


def scored(
    module: StepModule, rollouts: list[Rollout], world: World, *, drop_truncated: bool
) -> Scored:
    return score(
        rollouts,
        module=module,
        objective=SAMPLED,
        clock=CLOCK,
        seed=3,
        drop_truncated=drop_truncated,
        token_budget=60,
        world=world,
    )


def trained_tokens(module: StepModule, step: Scored, world: World) -> float:
    """What the step says that it trained on; its gradients are forgotten."""
    means = accumulate_gradient(
        module,
        step,
        objective=SAMPLED,
        clock=CLOCK,
        token_budget=60,
        world=world,
        on_progress=lambda done, total: None,
    )
    module.zero_grad(set_to_none=True)
    return means["trained_tokens"]


def sharded(cast: Cast, world: World) -> StepModule:
    module = cast.module()
    shard(
        module,
        layers=decoder_layers(cast.student.model),
        whole=module.frozen_models,
        compute_dtype=torch.float32,
        world=world,
        methods=["sweep"],
    )
    return module


def test_dropped_responses_are_those_that_hit_the_limit(world: World) -> None:
    cast = make_cast()
    rollouts = [
        replace(r, ended="length" if i % 3 == 1 else "eos")
        for i, r in enumerate(cast.roll_out(SAMPLED))
    ]
    ended = [r for r in rollouts if r.ended == "eos"]
    module = sharded(cast, world)
    kept = scored(module, rollouts, world, drop_truncated=False)
    dropped = scored(module, rollouts, world, drop_truncated=True)
    assert [r.request for r in kept.rollouts] == [r.request for r in rollouts]
    assert [r.request for r in dropped.rollouts] == [r.request for r in ended]
    assert dropped.denominator == sum(map(len, ended)) < kept.denominator
    none = scored(module, rollouts[1::3], world, drop_truncated=True)
    assert none.denominator == 0.0 and not none.rollouts
    counts = [trained_tokens(module, step, world) for step in (kept, dropped, none)]
    assert counts == [kept.denominator, dropped.denominator, 0.0]
    del module


def test_given_tokens_are_not_counted_as_trained_on(world: World) -> None:
    cast = make_cast()
    rollouts = [
        replace(r, request=replace(r.request, forced_ids=tuple(r.ids[:2].tolist())))
        for r in cast.roll_out(SAMPLED)
    ]
    module = sharded(cast, world)
    step = scored(module, rollouts, world, drop_truncated=False)
    drawn = sum(max(0, len(r) - 2) for r in rollouts)
    assert 0 < drawn == trained_tokens(module, step, world) == step.denominator
    del module
