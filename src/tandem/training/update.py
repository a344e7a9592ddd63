"""One optimiser step: what counts, the gradient over micro-batches, and AdamW's move."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tandem.core.counter import uniform
from tandem.core.reduce import MetricSums
from tandem.objectives.base import Objective, StepTokens
from tandem.training.batch import empty_micro_batch, pack, together
from tandem.training.parallel import World, gradient_norm, scale_gradients, synchronise_gradients
from tandem.training.step import StepModule
from tandem.types import Clock, Draw, Rollout, SignalSpec

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
    module: StepModule,
    objective: Objective,
    clock: Clock,
    seed: int,
    drop_truncated: bool,
    token_budget: int,
    world: World,
    reused: bool = False,
) -> Scored:
    """Decide what this step trains on and what it divides by, before any gradient.

    What the plan reads and the rollouts did not record is filled in by a sweep without gradients.
    drop_truncated: leave out responses that hit the length limit. reused: other updates will train
    on these rollouts too, so that the teacher is better asked once, here. Collective.
    """
    kept = [r for r in rollouts if r.ended == "eos" or not drop_truncated]
    if objective.needs().gate:
        kept = [replace(r, gate=_gates(r, seed)) for r in kept]
    spec = objective.planned()
    if (reused or spec != SignalSpec()) and not objective.needs().dense:
        spec |= objective.needs()  # once the teacher runs: then the update need not run it again
    kept = _swept(kept, module, spec, token_budget=token_budget, world=world)
    tokens, signal = together(kept)
    plan = objective.plan(StepTokens(tokens, signal, clock, gather=partial(_gathered, world)))
    weights = list(plan.weight.split([len(r) for r in kept])) if kept else []
    denominator = torch.tensor([plan.denominator], dtype=torch.float64)
    return Scored(kept, weights, float(world.sum(denominator)))


def _gates(rollout: Rollout, seed: int) -> Tensor:
    sequence = torch.full((len(rollout),), rollout.request.id, dtype=torch.int64)
    return uniform(seed, sequence, torch.arange(len(rollout)), Draw.GATE)


def _gathered(world: World, values: Tensor) -> Tensor:
    return torch.cat(world.gather(values))


def _swept(
    rollouts: list[Rollout],
    module: StepModule,
    spec: SignalSpec,
    *,
    token_budget: int,
    world: World,
) -> list[Rollout]:
    """The rollouts with what `spec` asks for on record. Collective where anything is missing."""
    missing = [r for r in rollouts if not r.signal.covers(spec)]
    if not world.max(float(spec.current or bool(missing))):
        return rollouts
    batches = pack(rollouts, [torch.ones(len(r)) for r in rollouts], token_budget=token_budget)
    count = max(1, int(world.max(len(batches))))
    result = list(rollouts)
    for i in range(count):
        batch = batches[i] if i < len(batches) else empty_micro_batch()
        signal, current = module.sweep(batch.to(world.device), spec)
        lengths = [len(rollouts[j]) for j in batch.rollouts]
        ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
        for j, start, end in zip(batch.rollouts, ends, ends[1:], strict=False):
            own = slice(start, end)
            result[j] = replace(
                rollouts[j],
                signal=signal[own].to(torch.device("cpu")),
                current_logp=None if current is None else current[own].cpu(),
            )
    return result


def accumulate_gradient(
    module: StepModule,
    scored: Scored,
    *,
    objective: Objective,
    clock: Clock,
    token_budget: int,
    world: World,
    on_progress: Progress,
) -> dict[str, float]:
    """Leave the gradient of the step's one loss in the parameters; the means of its metrics, and
    how many tokens it trained on.

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
        loss, found = module(batch.to(world.device), objective=objective, clock=clock, scale=scale)
        loss.backward()
        sums.merge(found)
        on_progress(i + 1, count)
    trained = float(sum(int((weight != 0).sum()) for weight in scored.weights))
    sums.add({"trained_tokens": (trained, 0.0)})
    total = world.total(sums)
    # The two that are no means over tokens: a sum over the plan's divisor, and a sum.
    total.add({"loss": (0.0, scored.denominator), "trained_tokens": (0.0, 1.0)})
    return total.means()


def apply_gradient(
    optimizer: Optimizer,
    parameters: list[nn.Parameter],
    *,
    clip_norm: float | None,
    loss: float,
    divisor: float,
    step: int,
) -> float:
    """Clip, move, forget the gradient; its norm before clipping.

    loss, divisor: the step's, over all ranks; a divisor of 0 means that not one token was trained
    on, and then nothing moves, AdamW's momentum and weight decay included. step: counted from 1,
    for the message. Raises NotFinite, before anything moves, where the loss or the gradient is not
    finite on any rank.
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
    if divisor:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
