"""Tokens that a request gives: scored at once, where its opening was prefilled.

Shapes: n jobs, P prefilled tokens, H hidden size, N given tokens of all jobs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tandem.rollout.block import Rule, scored
from tandem.rollout.lane import Lane
from tandem.rollout.queue import Job
from tandem.rollout.record import Recorder

# One distribution of the tokens that are scored at once.
CHUNK_BYTES = 2**26


def record_given(
    jobs: Sequence[Job],
    slots: Sequence[int],
    hidden: Sequence[Tensor],
    *,
    lanes: Sequence[Lane],
    rule: Rule,
    recorder: Recorder,
    length: int,
) -> None:
    """Record the given tokens of jobs that start in these slots, of `length` places each.

    hidden: [n, P, H] of each lane, over what was prefilled.
    """
    place, ids, position, row = given_tokens(jobs, slots, length)
    speaker = lanes[0].speaker
    flat: list[Tensor] = []
    for side, states in enumerate(hidden):
        prompts = [(job.request.student_ids, job.request.teacher_ids)[side] for job in jobs]
        # The token before each: the first one follows the prompt's last.
        before = torch.tensor([len(prompt) - 1 for prompt in prompts])[row] + position
        index = (row * states.shape[1] + before).to(speaker.device)
        flat.append(states.flatten(0, 1).index_select(0, index))
    table = torch.stack([place, ids, position]).to(speaker.device)
    size = max(1, CHUNK_BYTES // (4 * speaker.vocabulary_size))
    for start in range(0, len(ids), size):
        some = slice(start, start + size)
        place_N, ids_N, position_N = table[:, some]
        scores = scored(lanes, [states[some] for states in flat], rule, position_N)
        recorder.write(place_N[:, None], ids_N[:, None], scores)


def given_tokens(
    jobs: Sequence[Job], slots: Sequence[int], length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All given tokens of these jobs: their places, ids, positions and jobs, [N] each."""
    counts = torch.tensor([len(job.request.forced_ids) for job in jobs])
    row = torch.repeat_interleave(torch.arange(len(jobs)), counts)
    first = counts.cumsum(0) - counts
    position = torch.arange(int(counts.sum())) - first[row]
    ids = torch.tensor([i for job in jobs for i in job.request.forced_ids])
    return torch.tensor(slots)[row] * length + position, ids, position, row
