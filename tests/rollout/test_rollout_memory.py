"""What keys and values take: rows within a budget, slots that grow, requests that can never fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from rollout_models import EVERYTHING, Watched, engine_of, generate, pair, ragged
from test_rollout_blocks import assert_same

from tandem.behaviours import FixedBudgetBlend, Student
from tandem.rollout import lane
from tandem.rollout.budget import affordable, bytes_per_token, longest_row
from tandem.rollout.cache import STEP, SlotCache
from tandem.rollout.queue import Job
from tandem.types import Request

BLEND = FixedBudgetBlend(budget=0.1)


def test_a_token_takes_its_keys_and_values_in_every_layer() -> None:
    student, teacher = pair()
    # 2 (keys, values) × layers × key-value heads × head size × 4 bytes.
    assert bytes_per_token(student) == 2 * 2 * 2 * 8 * 4
    assert bytes_per_token(teacher) == 2 * 3 * 1 * 12 * 4


def test_rows_are_as_many_as_fit_at_their_longest() -> None:
    student, teacher = pair()
    jobs = [Job(i, Request(i, (1,) * 5, (1,) * 9)) for i in range(20)]
    # 5 + 12 and 9 + 12 tokens less the last one, and drafts beyond it.
    assert longest_row(jobs, 0, 12, widest=1) == 16 and longest_row(jobs, 1, 12, widest=4) == 23
    row = 16 * bytes_per_token(student) + 20 * bytes_per_token(teacher)
    for budget, rows in ((row, 1), (2 * row - 1, 1), (7 * row, 7)):
        found = affordable(jobs, [student, teacher], limit=12, widest=1, cache_bytes=budget)
        assert found == rows
    short = [replace(job, request=replace(job.request, max_new_tokens=2)) for job in jobs]
    assert longest_row(short, 0, 12, widest=1) == 6


def test_a_budget_changes_how_many_run_at_once_and_not_what_comes_out() -> None:
    student, teacher = pair()
    requests = ragged(15, size=13)
    truth = generate(engine_of(student, teacher, slots=8), requests, BLEND, record=EVERYTHING)
    watched = Watched(student)
    budget = 3 * 21 * (bytes_per_token(student) + bytes_per_token(teacher))
    engine = engine_of(watched, teacher, slots=8, block=2, cache_bytes=budget)
    assert_same(generate(engine, requests, BLEND, record=EVERYTHING), truth)
    assert max(watched.decoded) == 3


def test_what_can_never_fit_is_refused_with_the_sum() -> None:
    student, teacher = pair()
    requests = [Request(0, (1,), (2,)), Request(1, (1,) * 9, (2,) * 5)]
    engine = engine_of(student, teacher, cache_bytes=4_000)
    with pytest.raises(ValueError) as refused:
        generate(engine, requests, BLEND)
    assert str(refused.value) == (
        "request 1 can never fit in the cache: its keys and values may take 20 tokens × 0.2 KiB + "
        "16 tokens × 0.3 KiB, and there are 3.73e-06 GiB: raise rollout.cache_gib, or allow "
        "shorter prompts or fewer new tokens"
    )


def test_slots_grow_with_the_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SlotCache] = []

    class Noted(SlotCache):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr(lane, "SlotCache", Noted)
    student, teacher = pair()
    requests = [Request(i, (3, 4), (3, 4)) for i in range(12)]
    truth = generate(engine_of(student, teacher, slots=12), requests, Student())
    longest = max(map(len, truth))
    (cache,) = made
    assert longest > STEP
    assert longest <= cache.slots < cache.capacity or cache.slots == cache.capacity
    made.clear()
    short = [replace(r, max_new_tokens=3) for r in requests]
    generate(engine_of(student, teacher, slots=12), short, Student())
    assert made[0].slots == 4


@pytest.mark.parametrize("first", [1, 3, 8, 20])
def test_growing_keeps_what_was_written(first: int) -> None:
    generator = torch.Generator().manual_seed(0)
    grown, fixed = (SlotCache(layers=2, rows=3, capacity=40, grows=g) for g in (True, False))
    rows = torch.arange(3)
    prompts = torch.randn(2, 2, 3, 2, first, 4, generator=generator)
    for cache in (grown, fixed):
        cache.fill(rows, prompts)
    assert grown.slots < fixed.slots == 40
    for used in range(first + 1, 41):
        new = torch.randn(2, 3, 2, 1, 4, generator=generator)
        for layer in range(2):
            views = []
            for cache in (grown, fixed):
                if layer == 0:
                    cache.aim(torch.full((3, 1), used - 1), rows=3, used=used)
                views.append(cache.update(new[layer], new[layer] + 1, layer))
            for a, b in zip(*views, strict=True):
                assert torch.equal(a, b)
