"""One round: g tokens drafted by the student, the law at each, and which of them stay.

Both models eat the same tokens [cur, y_1 … y_{g−1}], and the positions of y_1 … y_g are settled.
A law that reads no teacher is known while drafting and drawn from directly: everything stays.

Shapes: B live rows, g tokens of each, V shared vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.behaviours.base import Behaviour, Law
from tandem.core.sampling import sample
from tandem.core.speculative import settle
from tandem.rollout.lane import Lane
from tandem.rollout.record import Scores
from tandem.types import Clock, Draw


@dataclass(frozen=True, slots=True)
class Start:
    """What a round begins with, [B, g] each.

    position: of each token in its response. draws: the uniforms by kind. used: slots that each
    lane attends over; None where it decides by its live rows.
    """

    position: Tensor
    draws: dict[Draw, Tensor]
    used: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """ids [B, g] with the scores of all g, and how many drafts stayed [B]: they are settled, and so
    is the token after them, where there is one."""

    ids: Tensor
    stayed: Tensor
    scores: Scores

    @property
    def counts(self) -> Tensor:
        """How many tokens are settled [B], 1 to g."""
        return (self.stayed + 1).clamp(max=self.ids.shape[1])


@dataclass(frozen=True, slots=True)
class Rule:
    """Whose law the tokens have: a behaviour at a clock, sharpened to a temperature."""

    behaviour: Behaviour
    clock: Clock
    temperature: float

    def draws(self, *, taught: bool) -> tuple[Draw, ...]:
        """The kinds of uniforms a token may use. The student's draw is a draft whether or not
        anybody verifies it, so that a blend with nothing to spend and a student alone draw the
        same tokens."""
        return (Draw.DRAFT, Draw.ACCEPT, Draw.RESIDUAL) if taught else (Draw.DRAFT,)


def advance(lanes: Sequence[Lane], rule: Rule, start: Start) -> Settled:
    """Draft, score, settle: the next 1 to g tokens of every row."""
    if len(lanes) == 1:
        return _alone(lanes[0], rule, start)
    return _verified(lanes[0], lanes[1], rule, start)


def _alone(lane: Lane, rule: Rule, start: Start) -> Settled:
    """Tokens whose law reads the student only, drawn from it one after the other."""
    rows, width = start.position.shape
    token_B1, drafts, logps, laws = lane.next_tokens[:rows], [], [], []
    stats: dict[str, list[Tensor]] = {}
    for j in range(width):
        hidden = lane.feed(token_B1, ahead=j, used=start.used[0])[:, 0]
        logp = torch.log_softmax(lane.speaker.logits(hidden), -1)
        law = rule.behaviour(
            student_logp=logp, teacher_logp=None, clock=rule.clock, position=start.position[:, j]
        )
        law_logp = tempered(law.logp, rule.temperature)
        token_B1 = sample(law_logp, start.draws[Draw.DRAFT][:, j])[:, None]
        drafts.append(token_B1)
        logps.append(logp)
        laws.append(law_logp)
        for name, value in law.stats.items():
            stats.setdefault(name, []).append(value)
    ids = _joined(drafts)
    logp = _stacked(logps)
    own = all(law is p for law, p in zip(laws, logps, strict=True))
    scores = Scores(
        law_logp=logp if own else _stacked(laws),
        student_logp=logp,
        teacher_logp=None,
        teacher_hidden=None,
        stats={name: _stacked(values) for name, values in stats.items()},
    )
    return Settled(ids, torch.full_like(ids[:, 0], ids.shape[1]), scores)


def _verified(student: Lane, teacher: Lane, rule: Rule, start: Start) -> Settled:
    """The student's drafts, judged by the law that reads the teacher too."""
    # The first token is each model's own: the last of its prompt, while nothing is settled yet.
    rows, width = start.position.shape
    token_B1, fed = student.next_tokens[:rows], [teacher.next_tokens[:rows]]
    logps, proposals = [], []
    for j in range(width):
        hidden = student.feed(token_B1, ahead=j, used=start.used[0])[:, 0]
        logp = torch.log_softmax(student.speaker.logits(hidden), -1)
        proposal = tempered(logp, rule.temperature)
        token_B1 = sample(proposal, start.draws[Draw.DRAFT][:, j])[:, None]
        fed.append(token_B1)
        logps.append(logp)
        proposals.append(proposal)
    student_logp = _stacked(logps)
    drafted = _joined(fed[1:])
    hidden = teacher.feed(_joined(fed[:-1]), used=start.used[1])
    teacher_logp = torch.log_softmax(teacher.speaker.logits(hidden), -1)
    law = rule.behaviour(
        student_logp=student_logp,
        teacher_logp=teacher_logp,
        clock=rule.clock,
        position=start.position,
    )
    # A law that is sharpened afterwards is no longer what its own rule draws from.
    own = law if rule.temperature == 1.0 else Law(law.logp)
    law_logp = tempered(law.logp, rule.temperature)
    ids, stayed = settle(
        drafted=drafted,
        proposal_logp=student_logp if rule.temperature == 1.0 else _stacked(proposals),
        law_logp=law_logp,
        accept=start.draws[Draw.ACCEPT],
        residual=start.draws[Draw.RESIDUAL],
        keeps=own.keeps,
        replacement=own.replacement,
    )
    scores = Scores(
        law_logp=law_logp,
        student_logp=student_logp,
        teacher_logp=teacher_logp,
        teacher_hidden=hidden,
        stats=law.stats,
    )
    return Settled(ids, stayed, scores)


def scored(lanes: Sequence[Lane], hidden: Sequence[Tensor], rule: Rule, position: Tensor) -> Scores:
    """The law at N prefixes whose tokens are given: hidden [N, H] of each lane, position [N]."""
    logp = [
        torch.log_softmax(lane.speaker.logits(states), -1).unsqueeze(1)
        for lane, states in zip(lanes, hidden, strict=True)
    ]
    taught = len(lanes) > 1
    law = rule.behaviour(
        student_logp=logp[0],
        teacher_logp=logp[1] if taught else None,
        clock=rule.clock,
        position=position.unsqueeze(1),
    )
    return Scores(
        law_logp=tempered(law.logp, rule.temperature),
        student_logp=logp[0],
        teacher_logp=logp[1] if taught else None,
        teacher_hidden=hidden[1].unsqueeze(1) if taught else None,
        stats=law.stats,
    )


def _stacked(values: list[Tensor]) -> Tensor:
    """g tensors [B, …] as [B, g, …], without a copy where there is one."""
    return values[0].unsqueeze(1) if len(values) == 1 else torch.stack(values, 1)


def _joined(columns: list[Tensor]) -> Tensor:
    """g columns [B, 1] as [B, g]."""
    return columns[0] if len(columns) == 1 else torch.cat(columns, 1)


def tempered(logp: Tensor, temperature: float) -> Tensor:
    """The law sharpened to p^(1/temperature), renormalised; at 0 all mass on its likeliest id."""
    if temperature == 1.0:
        return logp
    if temperature == 0.0:
        certain = torch.full_like(logp, -torch.inf)
        return certain.scatter_(-1, logp.argmax(-1, keepdim=True), 0.0)
    return torch.log_softmax(logp / temperature, -1)
