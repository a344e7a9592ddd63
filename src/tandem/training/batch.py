"""Rollouts as micro-batches: padded rows for the bodies, packed response tokens for the heads.

Shapes: B rows, L padded input length, N response tokens of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.types import Rollout, TeacherSignal, TokenBatch


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one body reads.

    ids: [B, L] prompt and response without its last token, padded on the right with id 0. A causal
    model with positions from 0 needs no mask for that. index: [N] where, in the flattened [B·L],
    the hidden state lies that predicts each response token.
    """

    ids: Tensor
    index: Tensor

    @property
    def positions(self) -> Tensor:
        """[B, L] positions, from 0 in every row."""
        return torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)

    def to(self, device: torch.device) -> Inputs:
        return Inputs(ids=self.ids.to(device), index=self.index.to(device))


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward's worth of rollouts of one teacher: N tokens with their record, row after row.

    teacher_name: which teacher judges them; "" for a batch without tokens. rollouts: which of the
    packed rollouts these are, in the order of the rows.
    """

    student: Inputs
    teacher: Inputs
    tokens: TokenBatch
    signal: TeacherSignal
    weight: Tensor
    teacher_name: str = ""
    rollouts: tuple[int, ...] = ()

    def to(self, device: torch.device) -> MicroBatch:
        return MicroBatch(
            student=self.student.to(device),
            teacher=self.teacher.to(device),
            tokens=self.tokens.to(device),
            signal=self.signal.to(device),
            weight=self.weight.to(device),
            teacher_name=self.teacher_name,
            rollouts=self.rollouts,
        )


def pack(
    rollouts: Sequence[Rollout], weights: Sequence[Tensor], *, token_budget: int
) -> list[MicroBatch]:
    """Micro-batches of at most `token_budget` padded tokens, the longer of the two models' inputs
    counted; a sequence that is longer by itself travels alone.

    weights: the plan's weight of every token, [T] per rollout. Longest first, so that rows of a
    micro-batch are of similar length and the largest update of the step comes first. Several
    teachers never share a micro-batch: theirs follow one another.
    """
    assert len(rollouts) == len(weights)
    order = sorted(
        range(len(rollouts)), key=lambda i: (rollouts[i].request.teacher, -_length(rollouts[i]))
    )
    groups: list[list[int]] = []
    width = 0
    for i in order:
        full = not groups or (len(groups[-1]) + 1) * width > token_budget
        if full or rollouts[groups[-1][0]].request.teacher != rollouts[i].request.teacher:
            groups.append([])
            width = _length(rollouts[i])
        groups[-1].append(i)
    return [_micro_batch(rollouts, weights, group) for group in groups]


def together(rollouts: Sequence[Rollout]) -> tuple[TokenBatch, TeacherSignal]:
    """All tokens of these rollouts in their order, with their record; none where there are none."""
    if not rollouts:
        none = torch.zeros(0)
        signal = TeacherSignal(sampled_logp=none, entropy=none, reference_logp=none)
        return empty_micro_batch().tokens, signal
    return (
        TokenBatch.cat([r.tokens() for r in rollouts]),
        TeacherSignal.cat([r.signal for r in rollouts]),
    )


def empty_micro_batch() -> MicroBatch:
    """No tokens at all: what a rank runs while others still have work, so that all take part in
    the same collectives."""
    whole = torch.zeros(0, dtype=torch.int64)
    none = torch.zeros(0)
    tokens = TokenBatch(
        ids=whole,
        sequence=whole,
        position=whole,
        behaviour_logp=none,
        student_logp=none,
        author=whole,
        policy_version=whole,
        forced=whole.bool(),
        # Present in every batch that has tokens where some need them; here they are of no length.
        student_entropy=none,
        gate=none,
        current_logp=none,
    )
    inputs = Inputs(ids=torch.zeros(1, 1, dtype=torch.int64), index=whole)
    return MicroBatch(inputs, inputs, tokens, TeacherSignal(), none)


def _length(rollout: Rollout) -> int:
    request = rollout.request
    return max(len(request.student_ids), len(request.teacher_ids)) + len(rollout) - 1


def _micro_batch(
    everything: Sequence[Rollout], weights: Sequence[Tensor], group: Sequence[int]
) -> MicroBatch:
    rollouts = [everything[i] for i in group]
    return MicroBatch(
        student=_inputs([r.request.student_ids for r in rollouts], rollouts),
        teacher=_inputs([r.request.teacher_ids for r in rollouts], rollouts),
        tokens=TokenBatch.cat([r.tokens() for r in rollouts]),
        signal=TeacherSignal.cat([r.signal for r in rollouts]),
        weight=torch.cat([weights[i] for i in group]),
        teacher_name=rollouts[0].request.teacher,
        rollouts=tuple(group),
    )


def _inputs(prompts: list[tuple[int, ...]], rollouts: list[Rollout]) -> Inputs:
    lengths = [len(prompt) + len(r) - 1 for prompt, r in zip(prompts, rollouts, strict=True)]
    ids_BL = torch.zeros(len(prompts), max(lengths), dtype=torch.int64)
    index: list[Tensor] = []
    for row, (prompt, rollout) in enumerate(zip(prompts, rollouts, strict=True)):
        assert prompt and len(rollout), "the first token needs a state that predicts it"
        ids_BL[row, : len(prompt)] = torch.tensor(prompt)
        ids_BL[row, len(prompt) : lengths[row]] = rollout.ids[:-1]
        # The state at position i predicts the token at i + 1.
        first = row * ids_BL.shape[1] + len(prompt) - 1
        index.append(torch.arange(first, first + len(rollout)))
    return Inputs(ids=ids_BL, index=torch.cat(index))
