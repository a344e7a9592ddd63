"""The expected gradient of an objective, by enumerating every token and every gate.

Nothing is sampled: each prefix is copied once per token of the vocabulary and per outcome of the
gate, weighed by its probability, and scored by the objective as in training.
Shapes: n prefixes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.behaviours.base import Behaviour
from tandem.core.divergences import entropy
from tandem.objectives.base import Objective, Plan, Prefixes, StepTokens, TokenLoss
from tandem.types import Author, Clock, SignalSpec, TeacherSignal, TokenBatch

Planner = Callable[[Objective, StepTokens], Plan]


@dataclass(frozen=True, slots=True)
class World:
    """n prefixes of a made-up language, [n, V] each, float64 and normalised (−inf where an id has
    no mass). `rollout_logp` is the student's when it drew the token; None: the student as it is."""

    student_logits: Tensor
    teacher_logp: Tensor
    clock: Clock
    rollout_logp: Tensor | None = None
    reference_logp: Tensor | None = None

    @property
    def drawn_from(self) -> Tensor:
        """log p of the student at rollout time."""
        if self.rollout_logp is not None:
            return self.rollout_logp
        return torch.log_softmax(self.student_logits, -1)

    @property
    def reference(self) -> Tensor:
        return self.drawn_from if self.reference_logp is None else self.reference_logp


def make_world(
    seed: int, *, prefixes: int = 5, vocabulary: int = 7, step: int = 3, stale: bool = False
) -> World:
    """Random prefixes, some peaked and some flat, the teacher near on some and far on others.

    stale: the student has moved since the rollout.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(prefixes, vocabulary, generator=generator, dtype=torch.float64)

    logits = noise() * torch.linspace(0.5, 2.5, prefixes, dtype=torch.float64)[:, None]
    teacher = torch.log_softmax(logits + noise(), -1)
    reference = torch.log_softmax(logits + 0.5 * noise(), -1)
    older = torch.log_softmax(logits + 0.4 * noise(), -1) if stale else None
    return World(logits, teacher, Clock(step, 20), older, reference)


def law_at(behaviour: Behaviour, world: World) -> Tensor:
    """log mu [n, V] of the tokens that the behaviour draws at these prefixes, in float64; where it
    says that it is the student, the student's own numbers and not their fp32 rounding."""
    if behaviour.is_student(world.clock):
        return world.drawn_from
    n = world.teacher_logp.shape[0]
    taught = behaviour.needs_teacher(world.clock)
    law = behaviour(
        student_logp=world.drawn_from.float(),
        teacher_logp=world.teacher_logp.float() if taught else None,
        clock=world.clock,
        position=torch.arange(n),
    )
    return torch.log_softmax(law.logp.double(), -1)


def expected_gradient(
    objective: Objective,
    behaviour_logp: Tensor,
    world: World,
    *,
    author: Author = Author.STUDENT,
    logits_dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """E over tokens y ~ mu and gates of the weighted surrogate's gradient, and of the weighted
    value: [n, V] (in the student's logits) and [n].

    Every copy is a response of one token, so that weights by length are 1. The plan's denominator
    is not used: the gradient is that of Σ weight · surrogate at each prefix.
    """
    tokens, signal, probability = _copies(objective, behaviour_logp, world, author)
    n, v = world.student_logits.shape
    copies = len(tokens) // n
    leaf = world.student_logits.clone().requires_grad_()
    logits = leaf.to(logits_dtype)[:, None].expand(n, copies, v).reshape(-1, v)
    plan = objective.plan(StepTokens(tokens, signal, world.clock))
    loss = objective.loss(
        logits, signal=signal, tokens=tokens, weight=plan.weight, clock=world.clock
    )
    weight = probability * plan.weight.double()
    used = weight != 0
    total = (weight * loss.surrogate.double().masked_fill(~used, 0.0)).sum()
    (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True, materialize_grads=True)
    value = (weight * loss.value.detach().double().masked_fill(~used, 0.0)).view(n, copies).sum(-1)
    return gradient, value


def declared_gradient(objective: Objective, behaviour_logp: Tensor, world: World) -> Tensor | None:
    """The gradient [n, V] that the objective says it follows; None where it says nothing."""
    leaf = world.student_logits.clone().requires_grad_()
    at = Prefixes(
        student_logp=torch.log_softmax(leaf, -1),
        teacher_logp=world.teacher_logp,
        behaviour_logp=behaviour_logp,
        rollout_logp=world.drawn_from,
        reference_logp=world.reference,
        clock=world.clock,
    )
    per_prefix = objective.declared(at)
    if per_prefix is None:
        return None
    if not per_prefix.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(per_prefix.sum(), leaf)
    return gradient


def score_once(
    objective: Objective,
    logits: Tensor,
    tokens: TokenBatch,
    signal: TeacherSignal,
    weight: Tensor,
    clock: Clock,
) -> tuple[TokenLoss, Tensor]:
    """The loss of these tokens and the gradient [N, V] of Σ weight · surrogate in the logits."""
    leaf = logits.clone().requires_grad_()
    loss = objective.loss(leaf, signal=signal, tokens=tokens, weight=weight, clock=clock)
    total = (weight * loss.surrogate.masked_fill(weight == 0, 0.0)).sum()
    (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True, materialize_grads=True)
    return loss, gradient


def _copies(
    objective: Objective, behaviour_logp: Tensor, world: World, author: Author
) -> tuple[TokenBatch, TeacherSignal, Tensor]:
    """Every (prefix, token, gate) once, with its probability under mu and the gate."""
    n, v = world.student_logits.shape
    spec = objective.needs() | objective.planned()
    p, q = world.drawn_from, world.teacher_logp
    now = torch.log_softmax(world.student_logits, -1)
    opens = objective.gate_probability(student_logp=now, teacher_logp=q)
    mass = behaviour_logp.exp()
    if opens is None:
        outcomes = [(mass, torch.full_like(mass, 0.5))]
    else:
        opens = opens.double()
        # One uniform inside each of the two intervals; where one is empty its probability is 0.
        outcomes = [(mass * opens, opens / 2), (mass * (1 - opens), (1 + opens) / 2)]
    ids = torch.arange(v).expand(n, v)
    row = torch.arange(n)[:, None].expand(n, v)
    probability = torch.stack([m for m, _ in outcomes], 1).flatten()
    gate = torch.stack([u for _, u in outcomes], 1).flatten()
    ids = torch.stack([ids] * len(outcomes), 1).flatten()
    row = torch.stack([row] * len(outcomes), 1).flatten()
    count = len(ids)
    tokens = TokenBatch(
        ids=ids,
        sequence=torch.arange(count),
        position=torch.zeros(count, dtype=torch.int64),
        behaviour_logp=behaviour_logp[row, ids],
        student_logp=p[row, ids],
        author=torch.full((count,), int(author)),
        policy_version=torch.zeros(count, dtype=torch.int64),
        forced=torch.zeros(count, dtype=torch.bool),
        # Only what was asked for: what a loss reads without asking is not there in training.
        student_entropy=entropy(p)[row] if spec.student_entropy else None,
        gate=gate if spec.gate else None,
        current_logp=now[row, ids] if spec.current else None,
    )
    signal = signal_of(spec, world, row, ids)
    return tokens, signal, probability


def signal_of(spec: SignalSpec, world: World, row: Tensor, ids: Tensor) -> TeacherSignal:
    """What a rollout would have recorded of the tokens `ids` [N] at the prefixes `row` [N]."""
    p, q = world.drawn_from[row], world.teacher_logp[row]
    spec = spec.within(q.shape[-1])
    one = ids.unsqueeze(-1)
    student_ids = p.topk(spec.student_topk, dim=-1).indices if spec.student_topk else None
    top = q.topk(spec.teacher_topk, dim=-1) if spec.teacher_topk else None
    return TeacherSignal(
        sampled_logp=q.gather(-1, one).squeeze(-1) if spec.sampled else None,
        student_topk_ids=student_ids,
        student_topk_logp=None if student_ids is None else q.gather(-1, student_ids),
        teacher_topk_ids=None if top is None else top.indices,
        teacher_topk_logp=None if top is None else top.values,
        entropy=entropy(q) if spec.teacher_entropy else None,
        reference_logp=(
            world.reference[row].gather(-1, one).squeeze(-1) if spec.reference else None
        ),
        logp=q if spec.dense else None,
    )
