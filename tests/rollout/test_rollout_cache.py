"""The slot cache and the lane that aims it, for one token and for blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rollout_models import assert_near, engine_of, generate, pair, ragged, sampled, uncached_logp
from torch import Tensor

from tandem.behaviours import FixedBudgetBlend
from tandem.models.speaker import Speaker
from tandem.rollout import lane as lane_module
from tandem.rollout.cache import SlotCache
from tandem.rollout.lane import Lane

PROMPTS = [(3, 1, 4, 1, 5), (9,), (2, 6, 5)]


def states_of(lane: Lane, prompts: list[tuple[int, ...]]) -> torch.Tensor:
    prefilled = lane.prefill(prompts)
    assert prefilled is not None
    return prefilled.states


def started(speaker: Speaker, capacity: int = 20) -> Lane:
    lane = Lane(speaker, rows=3, capacity=capacity)
    lane.admit([0, 1, 2], PROMPTS, states_of(lane, PROMPTS))
    return lane


def test_a_block_gives_the_hidden_states_of_its_tokens_one_by_one() -> None:
    speaker, _ = pair()
    block = torch.tensor([[7, 8, 9], [1, 2, 3], [4, 4, 4]])
    with torch.no_grad():
        lane = started(speaker)
        hidden = lane.feed(torch.cat([lane.next_tokens, block], 1))
        for row, prompt in enumerate(PROMPTS):
            truth = uncached_logp(speaker, prompt, (*block[row].tolist(), 0))
            found = torch.log_softmax(speaker.logits(hidden[row]), -1)
            assert_near(found, truth)


def test_a_rejected_draft_leaves_no_trace() -> None:
    speaker, _ = pair()
    with torch.no_grad():
        lane = started(speaker)
        draft = torch.tensor([[7, 8], [1, 2], [4, 4]])
        lane.feed(torch.cat([lane.next_tokens, draft], 1))
        # Of the first row only the token that was fed first settles, of the second a draft too, of
        # the third both; what follows is replaced by 11, and drafted anew in two forwards.
        counts = [1, 2, 3]
        lane.settle(torch.full((3,), 11), torch.tensor(counts))
        lane.note(counts)
        lane.feed(lane.next_tokens)
        hidden = lane.feed(torch.tensor([[3], [4], [5]]), ahead=1)
        for row, prompt in enumerate(PROMPTS):
            kept = draft[row, : counts[row] - 1].tolist()
            truth = uncached_logp(speaker, prompt, (*kept, 11, 3 + row, 0))[-1]
            found = torch.log_softmax(speaker.logits(hidden[row, -1]), -1)
            assert_near(found, truth)


def test_rows_may_be_replaced_and_moved() -> None:
    speaker, _ = pair()
    with torch.no_grad():
        lane = started(speaker)
        lane.feed(lane.next_tokens)
        lane.settle(torch.tensor([5, 6, 7]), torch.ones(3, dtype=torch.int64))
        lane.note([1, 1, 1])
        other = [(8, 8, 1, 2)]
        lane.admit([0], other, states_of(lane, other))
        lane.compact([2], [1], live=2)
        hidden = lane.feed(lane.next_tokens[:2])
        for row, sequence in enumerate([other[0], (*PROMPTS[2], 7)]):
            truth = uncached_logp(speaker, sequence, (0,))[0]
            found = torch.log_softmax(speaker.logits(hidden[row, -1]), -1)
            assert_near(found, truth)


def error(student: Speaker, teacher: Speaker) -> float:
    """The largest error of a recorded student log-prob on a ragged batch."""
    requests = ragged(9, size=13)
    worst = 0.0
    for r in generate(engine_of(student, teacher), requests, FixedBudgetBlend(budget=0.1)):
        p = uncached_logp(student, r.request.student_ids, r.ids.tolist())
        worst = max(worst, float((r.student_logp - sampled(p, r)).abs().max()))
    return worst


class WritesOneLate(SlotCache):
    def aim(self, at: Tensor, *, rows: int, used: int) -> None:
        super().aim((at + 1).clamp(max=rows * self.capacity - 1), rows=rows, used=used)


class WritesOneEarly(SlotCache):
    def aim(self, at: Tensor, *, rows: int, used: int) -> None:
        super().aim((at - 1).clamp(min=0), rows=rows, used=used)


class Altered(Speaker):
    """A speaker whose cached forwards see other positions, or another mask."""

    def __init__(self, speaker: Speaker, *, shift: int = 0, widen: bool = False) -> None:
        super().__init__(
            speaker.model, own_end_ids=speaker.own_end_ids, alignment=speaker.alignment
        )
        self.shift, self.widen = shift, widen

    def hidden(self, input_ids: Tensor, position_ids: Tensor, **rest: Any) -> Tensor:
        if rest.get("mask") is not None:
            position_ids = position_ids + self.shift
            if self.widen:
                mask = rest["mask"].clone()
                mask[..., 1:] |= rest["mask"][..., :-1]
                rest["mask"] = mask
        return super().hidden(input_ids, position_ids, **rest)


@pytest.mark.parametrize("broken", [WritesOneLate, WritesOneEarly])
def test_a_write_one_slot_off_shows_in_the_log_probs(
    broken: type[SlotCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = pair()
    assert error(student, teacher) <= 1e-5
    monkeypatch.setattr(lane_module, "SlotCache", broken)
    assert error(student, teacher) > 1e-2


@pytest.mark.parametrize("alteration", [{"shift": 1}, {"widen": True}], ids=str)
def test_a_position_or_a_mask_one_off_shows_in_the_log_probs(alteration: dict[str, Any]) -> None:
    student, teacher = pair()
    assert error(Altered(student, **alteration), teacher) > 1e-3
