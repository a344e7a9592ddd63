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


def test_rows_of_many_lengths_move_whole() -> None:
    """Two rows at once, one of them longer than the steps that slots come in."""
    speaker, _ = pair()
    lengths = (3, 4, 5, 2, 23)
    prompts = [tuple((7 * i + j) % 12 + 1 for j in range(n)) for i, n in enumerate(lengths)]
    with torch.no_grad():
        lane = Lane(speaker, rows=5, capacity=40)
        lane.admit(list(range(5)), prompts, states_of(lane, prompts))
        lane.compact([3, 4], [0, 1], live=3)
        hidden = lane.feed(lane.next_tokens[:3])
        for row, prompt in enumerate([prompts[3], prompts[4], prompts[2]]):
            truth = uncached_logp(speaker, prompt, (0,))[0]
            assert_near(torch.log_softmax(speaker.logits(hidden[row, -1]), -1), truth)


def test_slots_are_taken_half_as_many_again_each_time() -> None:
    cache = SlotCache(layers=1, rows=2, capacity=200)
    heads = torch.zeros(2, 2, 1, 4)
    taken: list[int] = []
    for position in range(150):
        cache.aim(torch.full((2, 1), position), rows=2, used=cache.window(position + 1))
        cache.update(heads, heads, 0)
        if cache.slots not in taken:
            taken.append(cache.slots)
    assert taken == [8, 16, 24, 40, 64, 96, 144, 200]


def test_rows_are_attended_one_by_one_where_that_leaves_enough_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The threshold is for each row, of what is unread once the tokens are there."""
    student, teacher = pair()
    engine = engine_of(student, teacher)  # whose lanes attend in a way of their own
    alone: list[bool] = []
    usual_lengths, usual_mask = Lane._lengths, Lane._mask

    def lengths(self: Lane, positions: Tensor) -> Tensor:
        alone.append(True)
        return usual_lengths(self, positions)

    def mask(self: Lane, positions: Tensor, used: int) -> Tensor:
        alone.append(False)
        return usual_mask(self, positions, used)

    monkeypatch.setattr(Lane, "_lengths", lengths)
    monkeypatch.setattr(Lane, "_mask", mask)
    spared: list[tuple[int, list[int]]] = []
    usual_spares = SlotCache.spares

    def spares(self: SlotCache, ends: list[int], used: int) -> int:
        found = usual_spares(self, ends, used)
        spared.append((found, ends))
        return found

    monkeypatch.setattr(SlotCache, "spares", spares)
    monkeypatch.setattr(lane_module, "A_ROW_ALONE", 1024)
    requests = ragged(9, size=13, longest=40)
    generate(engine, requests, FixedBudgetBlend(budget=0.1))
    asked = [found > 1024 * len(ends) for found, ends in spared]
    assert len(asked) == len(alone) and asked == alone and True in asked and False in asked


def test_what_a_row_holds_counts_the_tokens_fed_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    speaker, _ = pair()
    seen: list[list[int]] = []
    usual = SlotCache.spares

    def spares(self: SlotCache, ends: list[int], used: int) -> int:
        seen.append(ends)
        return usual(self, ends, used)

    monkeypatch.setattr(SlotCache, "spares", spares)
    with torch.no_grad():
        lane = started(speaker)
        lane._whole = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        lane.feed(lane.next_tokens)
        lane.feed(torch.tensor([[3], [4], [5]]), ahead=1)
    assert seen == [[5, 1, 3], [6, 2, 4]]


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
