"""What the tests of several objectives share: a batch of prefixes, and what may not matter to it.

Shapes: N rows, one prefix and one token each, V vocabulary, K support.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tandem.behaviours import Behaviour, FixedExponentBlend, Student, Teacher
from tandem.contract.enumeration import (
    World,
    declared_gradient,
    expected_gradient,
    law_at,
    make_world,
    score_once,
    signal_of,
)
from tandem.objectives.base import Objective, TokenLoss
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch

V, K = 8, 3
CLOCK = Clock(step=3, total_steps=20)
BEHAVIOURS: list[Behaviour] = [Student(), FixedExponentBlend(exponent=0.4), Teacher()]
EVERYTHING = SignalSpec(
    sampled=True,
    student_topk=K,
    teacher_topk=K,
    teacher_entropy=True,
    dense=True,
    reference=True,
)

Batch = tuple[Tensor, TokenBatch, TeacherSignal]
Invariance = Callable[[Objective], None]


def batch_of(world: World, *, seed: int = 0, ids: Tensor | None = None) -> Batch:
    """Logits [N, V], one token at each prefix (drawn from the student where none are given), and
    all that is known of it."""
    n = len(world.student_logits)
    if ids is None:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.multinomial(world.drawn_from.exp(), 1, generator=generator).squeeze(-1)
    row = torch.arange(n)
    drawn = world.drawn_from[row, ids]
    tokens = TokenBatch(
        ids=ids,
        sequence=row // 4,
        position=row % 4,
        behaviour_logp=drawn,
        student_logp=drawn,
        author=torch.zeros(n, dtype=torch.int64),
        policy_version=torch.zeros(n, dtype=torch.int64),
        forced=torch.zeros(n, dtype=torch.bool),
    )
    return world.student_logits, tokens, signal_of(EVERYTHING, world, row, ids)


def batch(seed: int, *, rows: int = 12, stale: bool = True) -> Batch:
    """Float64, the student a little ahead of its rollout."""
    return batch_of(make_world(seed, prefixes=rows, vocabulary=V, stale=stale), seed=seed)


def run(
    objective: Objective,
    of: Batch,
    weight: Tensor | None = None,
    *,
    clock: Clock = CLOCK,
) -> tuple[Tensor, Tensor, TokenLoss]:
    """Value [N], gradient [N, V] of Σ weight · surrogate, and the loss itself."""
    z, tokens, signal = of
    weight = torch.ones(len(tokens), dtype=z.dtype) if weight is None else weight
    loss, gradient = score_once(objective, z, tokens, signal, weight, clock)
    return loss.value, gradient, loss


def value_and_gradient(objective: Objective, of: Batch, **options: Any) -> tuple[Tensor, Tensor]:
    return run(objective, of, **options)[:2]


def rows_of(of: Batch, rows: Tensor | slice) -> Batch:
    return of[0][rows], of[1][rows], of[2][rows]


def assert_follows_what_it_declares(objective: Objective, behaviour: Behaviour) -> None:
    """By enumeration of the behaviour's tokens, fresh and stale."""
    objective.check(behaviour, updates_per_rollout=1)
    for stale in (False, True):
        world = make_world(11, stale=stale)
        law = law_at(behaviour, world)
        found, _ = expected_gradient(objective, law, world)
        assert found.abs().max() > 1e-3, "nothing is followed at all"
        torch.testing.assert_close(found, declared_gradient(objective, law, world))


def assert_neither_split_nor_order_matters(objective: Objective) -> None:
    of = batch(21)
    weight = torch.linspace(0.5, 2.0, len(of[1]), dtype=torch.float64)
    value, gradient, loss = run(objective, of, weight)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    pieces = [order[:1], order[1:5], order[5:]]
    parts = [run(objective, rows_of(of, piece), weight[piece]) for piece in pieces]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), value[order])
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), gradient[order])
    assert loss.metrics
    for name, (total, count) in loss.metrics.items():
        torch.testing.assert_close(sum(p[2].metrics[name][0] for p in parts), total)
        assert sum(int(p[2].metrics[name][1]) for p in parts) == count == 12


def assert_tokens_of_weight_0_do_not_matter(objective: Objective) -> None:
    of = batch(22)
    keep = torch.arange(12) % 3 != 0
    whole = run(objective, of, keep.double())
    alone = run(objective, rows_of(of, keep))
    torch.testing.assert_close(whole[0][keep], alone[0])
    torch.testing.assert_close(whole[1][keep], alone[1])
    assert (whole[1][~keep] == 0).all()
    for name, (total, count) in whole[2].metrics.items():
        torch.testing.assert_close(total, alone[2].metrics[name][0])
        assert count == alone[2].metrics[name][1] == keep.sum()


def assert_a_constant_in_the_logits_does_not_matter(objective: Objective) -> None:
    z, tokens, signal = batch(23)
    before = value_and_gradient(objective, (z, tokens, signal))
    after = value_and_gradient(objective, (z - 11.0, tokens, signal))
    torch.testing.assert_close(after, before, atol=1e-12, rtol=0.0)


def assert_forbidden_ids_add_nothing(objective: Objective) -> None:
    """Two more ids that every model masks."""
    world = make_world(24, prefixes=12, vocabulary=V)
    narrow = batch_of(world)
    more = [torch.cat([x, torch.full((12, 2), -torch.inf)], -1) for x in _laws(world)]
    wide = World(more[0], more[1], world.clock, None, more[2])
    before = value_and_gradient(objective, narrow)
    after = value_and_gradient(objective, batch_of(wide, ids=narrow[1].ids))
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1][:, :V], before[1])
    assert (after[1][:, V:] == 0).all()


def assert_the_vocabulary_may_be_renamed(objective: Objective) -> None:
    world = make_world(25, prefixes=12, vocabulary=V)
    z, tokens, signal = batch_of(world)
    order = torch.randperm(V, generator=torch.Generator().manual_seed(0))
    p, q, reference = (x[:, order] for x in _laws(world))
    moved = World(p, q, world.clock, None, reference)
    before = value_and_gradient(objective, (z, tokens, signal))
    after = value_and_gradient(objective, batch_of(moved, ids=order.argsort()[tokens.ids]))
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1], before[1][:, order])


def _laws(world: World) -> tuple[Tensor, Tensor, Tensor]:
    assert world.reference_logp is not None
    return world.student_logits, world.teacher_logp, world.reference_logp


def assert_bf16_logits_cost_no_more_than_bf16_arithmetic(objective: Objective) -> None:
    """Logits rounded to bf16, then scored in fp32 as in training; against all of it in bf16."""
    z, tokens, signal = batch(26, rows=256, stale=False)
    truth = value_and_gradient(objective, (z, tokens, signal))
    ours = value_and_gradient(
        objective, (z.bfloat16().float(), _cast(tokens, torch.float32), _cast(signal))
    )
    naive = value_and_gradient(
        objective, (z.bfloat16(), _cast(tokens, torch.bfloat16), _cast(signal, torch.bfloat16))
    )
    for exact, mine, coarse in zip(truth, ours, naive, strict=True):
        error = (mine.double() - exact).abs().mean()
        assert error <= (coarse.double() - exact).abs().mean() + 1e-6


def _cast(record: Any, dtype: torch.dtype = torch.float32) -> Any:
    return record._map(lambda x: x.to(dtype) if x.is_floating_point() else x)


INVARIANCES = pytest.mark.parametrize(
    "invariance",
    [
        assert_neither_split_nor_order_matters,
        assert_tokens_of_weight_0_do_not_matter,
        assert_a_constant_in_the_logits_does_not_matter,
        assert_forbidden_ids_add_nothing,
        assert_the_vocabulary_may_be_renamed,
        assert_bf16_logits_cost_no_more_than_bf16_arithmetic,
    ],
    ids=lambda f: f.__name__.removeprefix("assert_"),
)


def sentence(kind: type[Objective], **fields: Any) -> str:
    """The one sentence that a configuration is refused with."""
    with pytest.raises(ValidationError) as caught:
        kind(**fields)
    (error,) = caught.value.errors()
    return error["msg"].removeprefix("Value error, ")


def label(parameter: object) -> str | None:
    """An objective by the fields it was given, for the names of tests."""
    if not isinstance(parameter, Objective):
        return None
    given = parameter.model_dump(exclude_unset=True, exclude_none=True)
    return "-".join(str(value) for value in given.values()) or "default"
