"""What a step must be equal to: one sequence at a time, with all logits there."""

from __future__ import annotations

import torch
from torch import Tensor
from training_tiny import ALIGNMENT, CLOCK

from tandem.models.speaker import Speaker
from tandem.objectives import Objective
from tandem.training.batch import pack
from tandem.training.step import StepModule
from tandem.types import Rollout


def naive_logp(speaker: Speaker, prompt: tuple[int, ...], rollout: Rollout) -> Tensor:
    """[T, V] log-probs of each response token's law, one sequence at a time, all logits there:
    the model's own forward, then the end's probability moved onto the student's end id."""
    ids = torch.cat([torch.tensor(prompt), rollout.ids])[None]
    logits = speaker.model(input_ids=ids).logits[0, len(prompt) - 1 : -1, : ALIGNMENT.size]
    probability = logits.softmax(-1)
    end = probability[:, list(speaker.own_end_ids)].sum(-1)
    moved = probability.clone()
    moved[:, [2, 5]] = 0.0
    moved[:, ALIGNMENT.end_id] = end
    law = moved / moved.sum(-1, keepdim=True)
    return torch.where(law > 0, law, 1.0).log().masked_fill(law == 0, -torch.inf)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def step_gradient(
    module: StepModule, rollouts: list[Rollout], objective: Objective, *, token_budget: int = 10_000
) -> tuple[float, dict[str, Tensor]]:
    """The loss of the step and its gradient, over micro-batches of at most `token_budget`."""
    count = sum(map(len, rollouts))
    total = 0.0
    batches = pack(rollouts, [torch.ones(len(r)) for r in rollouts], token_budget=token_budget)
    for batch in batches:
        loss, _ = module(batch, objective=objective, clock=CLOCK, scale=1.0 / count)
        loss.backward()
        total += float(loss.detach())
    return total, gradients(module.student_model)


def assert_same_gradient(a: dict[str, Tensor], b: dict[str, Tensor], *, tolerance: float) -> None:
    """Every entry within `tolerance` of the other, on the scale of the whole gradient."""
    assert a.keys() == b.keys()
    scale = max(float(g.abs().max()) for g in a.values())
    assert scale > 1e-4, "a gradient that vanishes proves nothing"
    for name in a:
        assert float((a[name] - b[name]).abs().max()) < tolerance * scale, name
