"""What blocks are told and what is counted of them, exactly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from rollout_models import BLOCKS, engine_of, generate, pair, ragged
from test_rollout_law import counts_of, law_of, standard_score
from torch import Tensor

from tandem.behaviours import FixedBudgetBlend, SpeculativeKD, Teacher
from tandem.behaviours.base import Law
from tandem.rollout import session
from tandem.rollout.block import Settled
from tandem.rollout.pace import Block
from tandem.rollout.tally import Tally

BLEND = FixedBudgetBlend(budget=0.1)


class TellsPosition(Teacher):
    """A law of both models that notes the position it is told."""

    def __call__(self, *, position: Tensor, teacher_logp: Tensor | None, **known: Any) -> Law:
        assert teacher_logp is not None
        return Law(teacher_logp, {"position": position.float()})


@pytest.mark.parametrize("block", BLOCKS)
def test_a_law_is_told_each_token_s_place_drawn_or_given(block: Block) -> None:
    requests = [replace(r, forced_ids=(3, 5, 2)[: i % 4]) for i, r in enumerate(ragged(9, size=13))]
    for r in generate(engine_of(*pair(), slots=3, block=block), requests, TellsPosition()):
        assert r.stats["position"].tolist() == list(range(len(r)))


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("block", [1, 2])
def test_a_sharpened_law_replaces_a_rule_of_its_own(block: Block, temperature: float) -> None:
    """SKD keeps by the teacher's top-k, which draws from its own law and from no sharper one."""
    behaviour = SpeculativeKD(top_k=2, teacher_temperature=0.6)
    law = law_of(behaviour, temperature)
    counts = counts_of(behaviour, 4_000, temperature, block=block)
    if temperature == 0.0:
        assert counts == Counter({max(law, key=law.__getitem__): 4_000})
    else:
        assert abs(standard_score(counts, law)) < 4


@pytest.mark.parametrize("width", [1, 3, 8])
def test_the_tally_is_what_the_rounds_say(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = pair()
    truth, right = Tally(), session.advance
    kept: list[int] = []

    def watched(*given: Any) -> Settled:
        found = right(*given)
        live, drafts = found.ids.shape
        truth.rounds += 1
        truth.row_rounds += live
        truth.teacher_rows += live
        truth.slot_rounds += 6
        truth.student_tokens += live * drafts
        kept.append(int(found.stayed.sum()))
        return found

    monkeypatch.setattr(session, "advance", watched)
    tally = Tally()
    requests = [replace(r, forced_ids=(3, 5)[: i % 3]) for i, r in enumerate(ragged(20, size=13))]
    engine = engine_of(student, teacher, slots=6, block=width)
    rollouts = generate(engine, requests, BLEND, tally=tally)
    drawn = sum(len(r) - r.given for r in rollouts)
    drafted, told = sum(kept), replace(truth, tokens=drawn, tried=drawn)
    # Drafts beyond an end do not count, so that what stayed is what stays one by one.
    kept.clear()
    generate(engine_of(student, teacher, slots=6), requests, BLEND)
    truth = replace(told, stayed=sum(kept))
    assert tally == truth
    assert tally.stayed <= drafted
    assert tally.metrics() == {
        "tokens_per_round": (truth.tokens, truth.row_rounds),
        "student_forwards": (truth.student_tokens, truth.tokens),
        "teacher_forwards": (truth.row_rounds, truth.tokens),
        "slots_in_use": (truth.row_rounds, truth.slot_rounds),
        "acceptance": (truth.stayed, truth.tried),
    }


def test_two_tallies_add_up() -> None:
    one, other = (Tally(*range(start, start + 8)) for start in (1, 9))
    one.add(other)
    assert one == Tally(*(a + b for a, b in zip(range(1, 9), range(9, 17), strict=True)))


def test_own_limits_hold_inside_blocks() -> None:
    student, teacher = pair()
    requests = [replace(r, max_new_tokens=1 + i % 5) for i, r in enumerate(ragged(12, size=13))]
    free = generate(engine_of(student, teacher), ragged(12, size=13), BLEND)
    found = generate(engine_of(student, teacher, block=8), requests, BLEND)
    for cut, whole in zip(found, free, strict=True):
        limit = cut.request.max_new_tokens
        assert torch.equal(cut.ids, whole.ids[:limit])
        assert cut.ended == ("eos" if 0 in cut.ids.tolist() else "length")
