"""Micro-batches: which hidden state predicts which token, and what is packed with what."""

from __future__ import annotations

import pytest
import torch

from tandem.training.batch import pack
from tandem.types import Author, Request, Rollout


def rollout(
    id: int, student: tuple[int, ...], teacher: tuple[int, ...], ids: tuple[int, ...]
) -> Rollout:
    n = len(ids)
    return Rollout(
        request=Request(id=id, student_ids=student, teacher_ids=teacher),
        ids=torch.tensor(ids),
        behaviour_logp=torch.full((n,), -1.0),
        student_logp=torch.full((n,), -1.0),
        teacher_logp=None,
        author=torch.full((n,), int(Author.STUDENT)),
        policy_version=0,
        ended="eos",
    )


A = rollout(0, (10, 11), (20, 21, 22), (1, 2, 3))
B = rollout(1, (12,), (23,), (4, 5))


def test_each_response_token_is_predicted_by_the_state_before_it() -> None:
    (batch,) = pack([A, B], [torch.ones(3), torch.full((2,), 2.0)], token_budget=100)
    assert batch.student.ids.tolist() == [[10, 11, 1, 2], [12, 4, 0, 0]]
    # Row 0 predicts from its last prompt token on (positions 1, 2, 3); row 1 from 0, in a row of 4.
    assert batch.student.index.tolist() == [1, 2, 3, 4, 5]
    assert batch.teacher.ids.tolist() == [[20, 21, 22, 1, 2], [23, 4, 0, 0, 0]]
    assert batch.teacher.index.tolist() == [2, 3, 4, 5, 6]
    assert batch.student.positions.tolist() == [[0, 1, 2, 3]] * 2
    assert batch.tokens.ids.tolist() == [1, 2, 3, 4, 5]
    assert batch.tokens.sequence.tolist() == [0, 0, 0, 1, 1]
    assert batch.tokens.position.tolist() == [0, 1, 2, 0, 1]
    assert batch.weight.tolist() == [1.0, 1.0, 1.0, 2.0, 2.0]


def test_the_last_token_is_scored_but_never_read() -> None:
    (batch,) = pack([A], [torch.ones(3)], token_budget=100)
    assert 3 not in batch.student.ids and 3 in batch.tokens.ids


@pytest.mark.parametrize(("budget", "sizes"), [(1, [1] * 6), (12, [2, 2, 2]), (10**6, [6])])
def test_a_micro_batch_holds_as_many_padded_tokens_as_the_budget(
    budget: int, sizes: list[int]
) -> None:
    rollouts = [rollout(i, (9,) * n, (9,) * 2, (1, 2)) for i, n in enumerate([1, 5, 3, 2, 4, 5])]
    batches = pack(rollouts, [torch.ones(2)] * 6, token_budget=budget)
    assert [b.student.ids.shape[0] for b in batches] == sizes
    for batch in batches:
        rows, width = batch.student.ids.shape
        assert rows == 1 or rows * width <= budget
    found = sorted(int(s) for batch in batches for s in batch.tokens.sequence.unique())
    assert found == list(range(6)), "every rollout is in exactly one micro-batch"


def test_no_rollouts_make_no_micro_batches() -> None:
    assert pack([], [], token_budget=10) == []
