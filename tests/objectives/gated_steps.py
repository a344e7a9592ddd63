"""Steps of several responses, and several ranks as threads, for the objectives that gate tokens.

Shapes: V vocabulary, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

from tandem.behaviours import Behaviour, FixedExponentBlend, Student, Teacher
from tandem.contract.enumeration import World, law_at, make_world, signal_of
from tandem.core.divergences import entropy
from tandem.objectives import Objective, Plan
from tandem.objectives.base import StepTokens
from tandem.types import Author, Clock, TeacherSignal, TokenBatch

BEHAVIOURS: list[Behaviour] = [Student(), FixedExponentBlend(exponent=0.5), Teacher()]
WEIGHTS: list[dict[str, Any]] = [
    {"importance": "exact"},
    {"importance": "truncated", "importance_limit": 1.2},
    {"importance": "clipped", "importance_limit": 0.2},
]
CLOCK = Clock(3, 20)
# Two models that part: the hand-worked numbers of several tests start from them.
P = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
Q = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64)
LN2 = math.log(2.0)


def name(value: Any) -> str:
    """A short test id."""
    if isinstance(value, Objective):
        value = value.model_dump(exclude_defaults=True)
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "default"
    return str(getattr(value, "kind", value))


def law_of(behaviour: Behaviour, world: World) -> Tensor:
    """log mu, in float64 also where it is the student's own."""
    return world.drawn_from if behaviour.kind == "student" else law_at(behaviour, world)


def same_models(seed: int) -> World:
    """A world whose teacher is the student."""
    world = make_world(seed)
    return replace(world, teacher_logp=torch.log_softmax(world.student_logits, -1))


def drawn_step(
    objective: Objective, world: World, ids: Sequence[int], *, given: Sequence[int] = ()
) -> tuple[TokenBatch, TeacherSignal]:
    """One token per prefix, in responses of four; `given`: rows that the request forced."""
    rows = torch.arange(len(ids))
    y = torch.tensor(ids)
    now = torch.log_softmax(world.student_logits, -1)
    forced = torch.zeros(len(ids), dtype=torch.bool)
    forced[list(given)] = True
    tokens = TokenBatch(
        ids=y,
        sequence=rows // 4 + 7,
        position=rows % 4,
        behaviour_logp=world.drawn_from[rows, y],
        student_logp=world.drawn_from[rows, y],
        author=torch.full((len(ids),), int(Author.STUDENT)),
        policy_version=torch.zeros_like(y),
        forced=forced,
        student_entropy=entropy(world.drawn_from),
        gate=torch.full((len(ids),), 0.3, dtype=torch.float64),
        current_logp=now[rows, y],
    )
    return tokens, signal_of(objective.needs() | objective.planned(), world, rows, y)


def random_step(
    objective: Objective, seed: int, *, rows: int = 14, given: Sequence[int] = (0, 1, 8)
) -> tuple[World, TokenBatch, TeacherSignal]:
    """A stale step of four responses, the last one short, with tokens that were given."""
    world = make_world(seed, prefixes=rows, stale=True)
    generator = torch.Generator().manual_seed(seed)
    v = world.student_logits.shape[1]
    ids = torch.randint(v, (rows,), generator=generator).tolist()
    return world, *drawn_step(objective, world, ids, given=given)


def plan_on_ranks(
    objective: Objective,
    parts: Sequence[tuple[TokenBatch, TeacherSignal]],
    clock: Clock = CLOCK,
) -> list[Plan]:
    """Each rank's plan, the ranks being threads that meet at every gather."""
    meeting = Barrier(len(parts), timeout=10)
    shown: list[Tensor] = [torch.zeros(0)] * len(parts)

    def plan(rank: int) -> Plan:
        def gather(values: Tensor) -> Tensor:
            shown[rank] = values
            meeting.wait()
            everything = torch.cat(shown)
            meeting.wait()
            return everything

        tokens, signal = parts[rank]
        return objective.plan(StepTokens(tokens, signal, clock, gather))

    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(plan, range(len(parts))))


def assert_plan_is_that_of_the_whole_step(objective: Objective, clock: Clock = CLOCK) -> None:
    """However its tokens are ordered, and on whichever ranks they lie (one of them empty)."""
    _, tokens, signal = random_step(objective, seed=21)
    whole = objective.plan(StepTokens(tokens, signal, clock))
    assert (whole.weight == 0).any() and (whole.weight != 0).any(), "the test would see nothing"
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(1))
    moved = objective.plan(StepTokens(tokens[order], signal[order], clock))
    torch.testing.assert_close(moved.weight, whole.weight[order])
    assert moved.denominator == whole.denominator
    cuts = [slice(0, 8), slice(8, 8), slice(8, 14)]
    plans = plan_on_ranks(objective, [(tokens[c], signal[c]) for c in cuts], clock)
    torch.testing.assert_close(torch.cat([plan.weight for plan in plans]), whole.weight)
    assert sum(plan.denominator for plan in plans) == whole.denominator


def assert_given_tokens_change_nothing(objective: Objective, clock: Clock = CLOCK) -> None:
    """Where they have weight 0: neither the others' weights nor the divisor."""
    _, tokens, signal = random_step(objective, seed=22)
    free = ~tokens.forced
    whole = objective.plan(StepTokens(tokens, signal, clock))
    alone = objective.plan(StepTokens(tokens[free], signal[free], clock))
    assert (whole.weight[~free] == 0).all() and (whole.weight[free] != 0).any()
    torch.testing.assert_close(whole.weight[free], alone.weight)
    assert whole.denominator == alone.denominator


def nothing() -> tuple[TokenBatch, TeacherSignal]:
    """The step of a rank without a token, as the loop makes it."""
    from tandem.training.batch import together

    return together([])
