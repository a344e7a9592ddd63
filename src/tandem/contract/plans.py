"""Checks of what an objective's plan trains on, over made-up responses.

Shapes: N tokens.
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

import torch
from torch import Tensor

from tandem.contract.enumeration import make_world, score_once, signal_of
from tandem.contract.finding import TOLERANCE, Finding
from tandem.core.divergences import entropy
from tandem.objectives.base import Objective, StepTokens
from tandem.types import Author, Clock, TeacherSignal, TokenBatch

Batch = tuple[Tensor, TokenBatch, TeacherSignal, Clock]


def plan_findings(objective: Objective) -> list[Finding]:
    """Whether it leaves out what it must not train on, says what it reads, and plans on every
    rank alike."""
    return [
        _given_tokens_are_no_draws(objective),
        _says_whether_it_reads_the_drawn_token(objective),
        _an_empty_rank_takes_part(objective),
    ]


def drawn_batch(objective: Objective, seed: int, *, another: bool = False, shift: int = 0) -> Batch:
    """Logits, tokens drawn from the student at 12 prefixes, in three responses, with their record.

    another: another teacher judges the same tokens. shift: ids further on than the drawn ones.
    """
    world = make_world(seed, prefixes=12, vocabulary=ids_of(objective))
    if another:
        world = replace(world, teacher_logp=world.teacher_logp.flip(-1))
    generator = torch.Generator().manual_seed(seed)
    p = torch.softmax(world.student_logits, -1)
    ids = torch.multinomial(p, 1, generator=generator).squeeze(-1)
    ids = (ids + shift) % p.shape[-1]
    row = torch.arange(12)
    logp = p.log()[row, ids]
    spec = objective.needs() | objective.planned()
    gate = torch.rand(12, generator=generator, dtype=torch.float64)
    tokens = TokenBatch(
        ids=ids,
        sequence=row // 4,
        position=row % 4,
        behaviour_logp=logp,
        student_logp=logp,
        author=torch.full((12,), int(Author.TEACHER)),
        policy_version=torch.zeros(12, dtype=torch.int64),
        forced=torch.zeros(12, dtype=torch.bool),
        student_entropy=entropy(p.log()) if spec.student_entropy else None,
        gate=gate if spec.gate else None,
        current_logp=logp if spec.current else None,
    )
    signal = signal_of(spec, world, row, ids)
    return world.student_logits, tokens, signal, world.clock


def ids_of(objective: Objective) -> int:
    """How many ids its world has: few, and more than its supports."""
    spec = objective.needs() | objective.planned()
    return max(7, 3 * max(spec.student_topk, spec.teacher_topk) // 2)


def _given_tokens_are_no_draws(objective: Objective) -> Finding:
    claim = "given tokens: a loss of drawn tokens leaves them out, or imitates them"
    if not objective.reads_sampled():
        return Finding(claim, True, "it reads no drawn token")
    forced = torch.arange(12) % 4 < 2
    trained, gradients = 0, list[Tensor]()
    for author in (Author.STUDENT, Author.TEACHER):
        for another in (False, True):
            batch = _authored(drawn_batch(objective, 8, another=another), author, forced)
            weight, gradient = _planned_gradient(objective, batch)
            if author is Author.TEACHER:
                gradients.append(gradient[forced])
            else:
                trained = max(trained, int((weight[forced] != 0).sum()))
    # Text may be learnt as text, whatever its author's own log-probs are: that weighs no draw.
    moved = float((gradients[0] - gradients[1]).abs().max())
    detail = (
        f"{trained} given tokens under the student's name have weight; another teacher moves the "
        f"gradient at given tokens of the teacher by {moved:.1e}"
    )
    return Finding(claim, trained == 0 and moved < TOLERANCE, detail)


def _says_whether_it_reads_the_drawn_token(objective: Objective) -> Finding:
    claim = "it says whether its loss depends on the token drawn"
    if objective.reads_sampled():
        return Finding(claim, True, "it does")
    nothing = torch.zeros(12, dtype=torch.bool)
    found = [
        _planned_gradient(objective, _authored(batch, Author.STUDENT, nothing))[1]
        for batch in (drawn_batch(objective, 9, shift=shift) for shift in (0, 1, 3))
    ]
    moved = max(float((gradient - found[0]).abs().max()) for gradient in found)
    detail = f"other tokens of the student move its gradient by {moved:.1e}"
    if moved >= TOLERANCE:
        detail += ": return True from reads_sampled, or read no drawn token"
    return Finding(claim, moved < TOLERANCE, detail)


def _an_empty_rank_takes_part(objective: Objective) -> Finding:
    claim = "a rank without a token plans with the others"
    _, tokens, signal, clock = drawn_batch(objective, 10)
    gathered: list[Tensor] = []

    def keep(values: Tensor) -> Tensor:
        gathered.append(values)
        return values

    objective.plan(StepTokens(tokens, signal, clock, gather=keep))
    asked = 0

    def others(values: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        # Asked more often than the others, it would wait for ever.
        return torch.cat([values, gathered[asked - 1]]) if asked <= len(gathered) else values

    none = slice(0, 0)
    plan = objective.plan(StepTokens(tokens[none], signal[none], clock, gather=others))
    detail = (
        f"gather is called {asked} times, by the others {len(gathered)}; weights "
        f"{list(plan.weight.shape)}, divisor {plan.denominator}"
    )
    holds = asked == len(gathered) and plan.weight.shape == (0,)
    holds &= isfinite(plan.denominator)
    return Finding(claim, holds, detail)


def _authored(batch: Batch, author: Author, forced: Tensor) -> Batch:
    logits, tokens, signal, clock = batch
    authors = torch.full_like(tokens.author, int(author))
    return logits, replace(tokens, author=authors, forced=forced), signal, clock


def _planned_gradient(objective: Objective, batch: Batch) -> tuple[Tensor, Tensor]:
    """The plan's weights [N], and the gradient [N, V] of Σ weight · surrogate in the logits."""
    logits, tokens, signal, clock = batch
    weight = objective.plan(StepTokens(tokens, signal, clock)).weight
    return weight, score_once(objective, logits, tokens, signal, weight.to(logits.dtype), clock)[1]
