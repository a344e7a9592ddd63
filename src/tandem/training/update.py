"""One optimiser step: what counts, the gradient over micro-batches, and AdamW's move."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tandem.core.reduce import MetricSums
from tandem.objectives.base import Objective
from tandem.training.batch import empty_micro_batch, pack
from tandem.training.parallel import World, gradient_norm, scale_gradients, synchronise_gradients
from tandem.training.step import StepModule
from tandem.types import Clock, Rollout, TeacherSignal, TokenBatch

Progress = Callable[[int, int], None]


class NotFinite(ValueError):
    """A loss or gradient is NaN or infinite; nothing was changed by this step."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A step's rollouts with the plan's weight per token ([T] each) and the one divisor of the
    step, summed over ranks."""

    rollouts: list[Rollout]
    weights: list[Tensor]
    denominator: float


def score(
    rollouts: Sequence[Rollout],
    *,
    objective: Objective,
    clock: Clock,
    drop_truncated: bool,
    world: World,
) -> Scored:
    """Decide what this step trains on and what it divides by, before any gradient.

    drop_truncated: leave out responses that hit the length limit. Collective.
    """
    kept = [r for r in rollouts if r.ended == "eos" or not drop_truncated]
    weights: list[Tensor] = []
    denominator = 0.0
    if kept:
        plan = objective.plan(
            TokenBatch.cat([r.tokens() for r in kept]),
            TeacherSignal.cat([r.signal for r in kept]),
            clock,
        )
        weights = list(plan.weight.split([len(r) for r in kept]))
        denominator = plan.denominator
    return Scored(kept, weights, float(world.sum(torch.tensor([denominator]))))


def accumulate_gradient(
    module: StepModule,
    scored: Scored,
    *,
    clock: Clock,
    token_budget: int,
    world: World,
    on_progress: Progress,
) -> dict[str, float]:
    """Leave the gradient of the step's one loss in the parameters; the means of its metrics.

    Every rank runs as many micro-batches as the busiest one: the rest are empty. Without a single
    token the loss is 0 and so is every gradient. Collective.
    """
    batches = pack(scored.rollouts, scored.weights, token_budget=token_budget)
    count = max(1, int(world.max(len(batches))))
    # FSDP averages gradients over ranks; the plan's denominator already counts all of them.
    scale = world.size / scored.denominator if scored.denominator else 0.0
    sums = MetricSums()
    for i in range(count):
        batch = batches[i] if i < len(batches) else empty_micro_batch()
        synchronise_gradients(module, last=i == count - 1)
        loss, found = module(batch.to(world.device), clock=clock, scale=scale)
        loss.backward()
        sums.merge(found)
        on_progress(i + 1, count)
    total = world.total(sums)
    total.add({"loss": (0.0, scored.denominator)})
    return total.means()


def apply_gradient(
    optimizer: Optimizer,
    parameters: list[nn.Parameter],
    *,
    clip_norm: float | None,
    loss: float,
    step: int,
) -> float:
    """Clip, move, forget the gradient; its norm before clipping.

    loss: the step's, over all ranks. step: counted from 1, for the message. Raises NotFinite,
    before anything moves, where the loss or the gradient is not finite on any rank.
    """
    norm = float(gradient_norm(parameters))
    if not (math.isfinite(norm) and math.isfinite(loss)):
        what, value = ("gradient", norm) if math.isfinite(loss) else ("loss", loss)
        raise NotFinite(
            f"step {step}: the {what} is {value}, so training stops; earlier checkpoints are "
            "untouched: resume with a lower optimizer.lr, or look at samples.jsonl"
        )
    if clip_norm is not None and norm > clip_norm:
        scale_gradients(parameters, clip_norm / norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
