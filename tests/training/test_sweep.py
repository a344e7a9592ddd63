"""The sweep before a plan: its numbers are those of a plain forward, however it is split, and it
spares the update what it did already. Several teachers each judge their own rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from naive_step import naive_logp
from sweep_cases import Cast, Selective, make_cast
from torch import Tensor
from training_tiny import CLOCK

from tandem.behaviours import TrustRegionBlend
from tandem.core.counter import uniform
from tandem.objectives import Objective, ReverseKL
from tandem.training.batch import pack
from tandem.training.parallel import World, open_world, shard
from tandem.training.step import StepModule, decoder_layers
from tandem.training.update import Scored, accumulate_gradient, score
from tandem.types import Draw, Rollout, SignalSpec, TeacherSignal

SEED = 3
BLEND = TrustRegionBlend(budget=0.05, warmup_steps=4)
EVERYTHING = SignalSpec(
    sampled=True,
    student_topk=4,
    teacher_topk=3,
    teacher_entropy=True,
    reference=True,
    current=True,
)


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(torch.device("cpu")) as world:
        yield world


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


def forget(rollouts: list[Rollout]) -> list[Rollout]:
    """The rollouts with nothing of the teacher on record but which ids were to be asked."""
    return [
        replace(r, signal=TeacherSignal(student_topk_ids=r.signal.student_topk_ids))
        for r in rollouts
    ]


def swept(
    module: StepModule, rollouts: list[Rollout], spec: SignalSpec, *, token_budget: int
) -> list[tuple[TeacherSignal, Tensor | None]]:
    """Per rollout, in their order."""
    found: dict[int, tuple[TeacherSignal, Tensor | None]] = {}
    for batch in pack(rollouts, [torch.ones(len(r)) for r in rollouts], token_budget=token_budget):
        signal, current = module.sweep(batch, spec)
        start = 0
        for i in batch.rollouts:
            rows = slice(start, start + len(rollouts[i]))
            found[i] = signal[rows], None if current is None else current[rows]
            start = rows.stop
    return [found[i] for i in range(len(rollouts))]


@pytest.mark.parametrize("token_budget", [1, 40, 10_000])
def test_the_sweep_is_a_plain_forward_of_each_row_by_its_own_teacher(token_budget: int) -> None:
    cast = make_cast()
    rollouts = forget(cast.roll_out(ReverseKL(top_k=4)))
    found = swept(cast.module(), rollouts, EVERYTHING, token_budget=token_budget)
    for rollout, (signal, current) in zip(rollouts, found, strict=True):
        request, ids = rollout.request, rollout.ids[:, None]
        with torch.no_grad():
            p = naive_logp(cast.student, request.student_ids, rollout)
            q = naive_logp(cast.teachers[request.teacher], request.teacher_ids, rollout)
            ref = naive_logp(cast.reference, request.student_ids, rollout)
        top, top_ids = q.topk(3)
        student_ids = rollout.signal.student_topk_ids
        assert student_ids is not None
        expected = {
            "sampled_logp": q.gather(1, ids)[:, 0],
            "student_topk_ids": student_ids,
            "student_topk_logp": q.gather(1, student_ids),
            "teacher_topk_ids": top_ids,
            "teacher_topk_logp": top,
            "entropy": torch.special.entr(q.exp()).sum(-1),
            "reference_logp": ref.gather(1, ids)[:, 0],
        }
        for name, value in expected.items():
            torch.testing.assert_close(getattr(signal, name), value, rtol=1e-4, atol=1e-5)
        assert signal.logp is None, "dense log-probs are never kept"
        torch.testing.assert_close(current, p.gather(1, ids)[:, 0], rtol=1e-4, atol=1e-5)


def test_without_the_students_part_the_sweep_runs_no_student() -> None:
    cast = make_cast()
    rollouts = forget(cast.roll_out(ReverseKL(top_k=4)))
    spec = replace(EVERYTHING, current=False)
    whole = swept(cast.module(), rollouts, EVERYTHING, token_budget=60)
    with torch.no_grad():
        for parameter in cast.student.model.parameters():
            parameter.fill_(torch.nan)
    for (signal, current), (expected, _) in zip(
        swept(cast.module(), rollouts, spec, token_budget=60), whole, strict=True
    ):
        assert current is None
        assert signal.sampled_logp is not None and expected.sampled_logp is not None
        assert torch.equal(signal.sampled_logp, expected.sampled_logp)


class Calls:
    """How often each frozen model's body ran since the last look."""

    def __init__(self, module: StepModule) -> None:
        self.counts = {name: 0 for name in module.frozen_models}
        for name, model in module.frozen_models.items():

            def count(*_: object, name: str = name) -> None:
                self.counts[name] += 1

            model.get_submodule("model").register_forward_hook(count)

    def take(self) -> dict[str, int]:
        found, self.counts = self.counts, dict.fromkeys(self.counts, 0)
        return found


def scored_by(
    module: StepModule,
    rollouts: list[Rollout],
    objective: Objective,
    world: World,
    *,
    token_budget: int = 60,
    reused: bool = False,
) -> Scored:
    return score(
        rollouts,
        module=module,
        objective=objective,
        clock=CLOCK,
        seed=SEED,
        drop_truncated=False,
        token_budget=token_budget,
        world=world,
        reused=reused,
    )


def update(module: StepModule, scored: Scored, objective: Objective, world: World) -> float:
    means = accumulate_gradient(
        module,
        scored,
        objective=objective,
        clock=CLOCK,
        token_budget=60,
        world=world,
        on_progress=lambda done, total: None,
    )
    module.zero_grad(set_to_none=True)
    return means["loss"]


NEVER = {"teacher math": 0, "teacher code": 0, "reference": 0}


def test_a_plan_that_reads_the_teacher_asks_it_once_and_the_update_not_again(world: World) -> None:
    cast = make_cast()
    objective = Selective(top_k=4)
    rollouts = cast.roll_out(objective)
    module = sharded(cast, world)
    calls = Calls(module)
    scored = scored_by(module, rollouts, objective, world)
    batches = [b.teacher_name for b in pack(rollouts, scored.weights, token_budget=60)]
    once = {f"teacher {name}": batches.count(name) for name in cast.teachers} | {"reference": 0}
    assert calls.take() == once and min(batches.count(name) for name in cast.teachers) > 0
    update(module, scored, objective, world)
    assert calls.take() == NEVER
    del module


def test_a_blended_rollout_has_all_on_record_and_only_the_student_is_swept(world: World) -> None:
    cast = make_cast()
    objective = Selective(top_k=4)
    rollouts = cast.roll_out(objective, behaviour=BLEND)
    module = sharded(cast, world)
    calls = Calls(module)
    scored = scored_by(module, rollouts, objective, world)
    update(module, scored, objective, world)
    assert calls.take() == NEVER
    for before, after in zip(rollouts, scored.rollouts, strict=True):
        assert torch.equal(torch.nan_to_num(before.student_logp), before.student_logp)
        assert after.current_logp is not None
        torch.testing.assert_close(after.current_logp, before.student_logp, rtol=0, atol=1e-4)
    del module


def test_rollouts_that_serve_several_updates_ask_the_teacher_once(world: World) -> None:
    cast = make_cast()
    plain = ReverseKL(top_k=4)
    rollouts = cast.roll_out(plain)
    module = sharded(cast, world)
    calls = Calls(module)
    fresh = scored_by(module, rollouts, plain, world)
    assert calls.take() == NEVER, "a plan that reads nothing is made without a sweep"
    expected = update(module, fresh, plain, world)
    assert sum(calls.take().values()) > 0
    first = scored_by(module, rollouts, plain, world, reused=True)
    assert sum(calls.take().values()) > 0
    losses = [update(module, first, plain, world)]
    again = scored_by(module, first.rollouts, plain, world, reused=True)
    losses.append(update(module, again, plain, world))
    assert calls.take() == NEVER
    assert losses == pytest.approx([expected, expected], rel=1e-6)
    # Dense log-probs are not kept: there is nothing to ask beforehand.
    dense = ReverseKL(support="full")
    scored_by(module, rollouts, dense, world, reused=True)
    assert calls.take() == NEVER
    del module


def test_plans_and_gates_do_not_depend_on_the_split_or_the_order(world: World) -> None:
    cast = make_cast()
    objective = Selective(top_k=4)
    rollouts = forget(cast.roll_out(objective))
    module = sharded(cast, world)
    whole = scored_by(module, rollouts, objective, world, token_budget=10_000)
    for r, w in zip(whole.rollouts, whole.weights, strict=True):
        sequence = torch.full((len(r),), r.request.id)
        gate = uniform(SEED, sequence, torch.arange(len(r)), Draw.GATE)
        assert r.gate is not None and torch.equal(r.gate, gate)
        assert not w[gate >= 0.5].any()
    assert 0 < whole.denominator < sum(map(len, rollouts)) / 2
    for budget, order in ((1, 1), (40, 1), (40, -1)):
        other = scored_by(module, rollouts[::order], objective, world, token_budget=budget)
        assert other.denominator == whole.denominator
        for a, b in zip(other.weights[::order], whole.weights, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        pairs = zip(other.rollouts[::order], whole.rollouts, strict=True)
        for mine, its in pairs:
            assert mine.gate is not None and its.gate is not None
            assert mine.request == its.request and torch.equal(mine.gate, its.gate)
    del module


def test_the_plan_sees_the_tokens_in_the_order_of_the_rollouts(world: World) -> None:
    cast = make_cast()
    objective = Selective(top_k=4)
    rollouts = cast.roll_out(objective)
    module = sharded(cast, world)
    Selective.seen.clear()
    scored_by(module, rollouts, objective, world, token_budget=1)
    (step,) = Selective.seen
    assert torch.equal(step.tokens.ids, torch.cat([r.ids for r in rollouts]))
    expected = torch.cat([torch.full((len(r),), r.request.id) for r in rollouts])
    assert torch.equal(step.tokens.sequence, expected)
    del module


def test_a_step_without_a_token_has_a_plan_and_no_loss(world: World) -> None:
    cast = make_cast()
    objective = Selective(top_k=4)
    module = sharded(cast, world)
    scored = scored_by(module, [], objective, world)
    assert (scored.rollouts, scored.weights, scored.denominator) == ([], [], 0.0)
    assert accumulate_gradient(
        module,
        scored,
        objective=objective,
        clock=CLOCK,
        token_budget=60,
        world=world,
        on_progress=lambda done, total: None,
    ) == {"trained_tokens": 0.0}
    del module
