"""Attention of one token per row: the numbers of float64, and nothing left behind on the model."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rollout_models import (
    assert_near,
    engine_of,
    generate,
    pair,
    ragged,
    sampled,
    uncached_logp,
)
from torch import Tensor
from torch.testing import assert_close
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tandem.behaviours import FixedBudgetBlend
from tandem.models.speaker import Speaker
from tandem.rollout.attention import NAME, attend
from tandem.types import Request

GROUPED: Any = SimpleNamespace(num_key_value_groups=2, is_causal=True)


def heads(*, tokens: int, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three rows, four query heads, two key heads of 8, cut from a longer store."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, tokens, 8, generator=generator)
    keys, values = torch.randn(2, 3, 2, slots + 5, 8, generator=generator)[..., :slots, :]
    return query, keys, values


def naive(query: Tensor, keys: Tensor, values: Tensor, lengths: list[int]) -> Tensor:
    """[B, 1, N, D]: the token of row i attends to the first lengths[i] slots."""
    out = torch.zeros(3, 1, 4, 8, dtype=torch.float64)
    for row, length in enumerate(lengths):
        for head in range(4):
            q, k, v = (x.double()[row] for x in (query, keys, values))
            scores = [float(q[head, 0] @ k[head // 2, s]) / math.sqrt(8) for s in range(length)]
            weights = [math.exp(score) for score in scores]
            for s, weight in enumerate(weights):
                out[row, 0, head] += weight / sum(weights) * v[head // 2, s]
    return out


def test_each_row_attends_to_its_own_slots_and_heads_share_keys_in_order() -> None:
    query, keys, values = heads(tokens=1, slots=6)
    lengths = [1, 6, 4]
    mask = (torch.arange(6) < torch.tensor(lengths)[:, None])[:, None, None]
    found, _ = attend(GROUPED, query, keys, values, mask, scaling=8**-0.5)
    assert_close(found.double(), naive(query, keys, values, lengths), rtol=0, atol=1e-6)


def test_one_true_stands_for_a_mask_without_a_hole() -> None:
    query, keys, values = heads(tokens=1, slots=6)
    found, _ = attend(GROUPED, query, keys, values, torch.ones(1, 1, 1, 1).bool())
    assert_close(found.double(), naive(query, keys, values, [6, 6, 6]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_blocks_and_prompts_are_attended_as_ever(masked: bool) -> None:
    query, keys, values = heads(tokens=3, slots=3)
    mask = torch.ones(3, 3).tril().bool().expand(3, 1, 3, 3) if masked else None
    found, _ = attend(GROUPED, query, keys, values, mask)
    assert torch.equal(found, sdpa_attention_forward(GROUPED, query, keys, values, mask)[0])


def test_what_sdpa_refuses_is_refused() -> None:
    query, keys, values = heads(tokens=1, slots=3)
    mask = torch.ones(3, 1, 1, 3).bool()
    with pytest.raises(ValueError, match="does not support `softcap`"):
        attend(GROUPED, query, keys, values, mask, softcap=30.0)


class Noting(Speaker):
    """A speaker that notes the attention of its forwards, and may fail at one of them."""

    def __init__(self, speaker: Speaker, *, fail_at: int | None = None) -> None:
        super().__init__(
            speaker.model, own_end_ids=speaker.own_end_ids, alignment=speaker.alignment
        )
        self.fail_at = fail_at
        self.seen: list[str | None] = []

    def hidden(self, input_ids: Tensor, position_ids: Tensor, **rest: Any) -> Tensor:
        self.seen.append(self.config._attn_implementation)
        if len(self.seen) == self.fail_at:
            raise RuntimeError("out of memory")
        return super().hidden(input_ids, position_ids, **rest)


@pytest.mark.parametrize("fail_at", [None, 1, 3])
def test_the_models_keep_their_attention_even_where_a_run_fails(fail_at: int | None) -> None:
    student, teacher = pair()
    noting = Noting(student, fail_at=fail_at)
    engine = engine_of(noting, teacher)
    if fail_at is None:
        generate(engine, ragged(3, size=13), FixedBudgetBlend(budget=0.1))
    else:
        with pytest.raises(RuntimeError, match="out of memory"):
            generate(engine, ragged(3, size=13), FixedBudgetBlend(budget=0.1))
    assert set(noting.seen) == {NAME}
    assert student.config._attn_implementation == teacher.config._attn_implementation == "sdpa"


def test_a_model_with_another_attention_keeps_it_while_it_runs() -> None:
    student, teacher = pair()
    student.model.set_attn_implementation("eager")
    noting = Noting(student)
    generate(engine_of(noting, teacher), ragged(3, size=13), FixedBudgetBlend(budget=0.1))
    assert set(noting.seen) == {"eager"}
    assert student.config._attn_implementation == "eager"


def alike(count: int) -> list[Request]:
    """Requests whose student prompts are equally long."""
    drawn = ragged(count, size=13)
    return [replace(r, student_ids=(3, 1 + i, 4)) for i, r in enumerate(drawn)]


def test_rows_of_one_length_are_scored_as_without_a_cache() -> None:
    student, teacher = pair()
    for r in generate(engine_of(student, teacher), alike(4), FixedBudgetBlend(budget=0.1)):
        logp = uncached_logp(student, r.request.student_ids, r.ids.tolist())
        assert_near(r.student_logp, sampled(logp, r))


def test_rows_of_one_length_are_given_no_true_mask() -> None:
    student, teacher = pair()
    sizes: list[int] = []

    class Sizes(Speaker):
        def hidden(self, input_ids: Tensor, position_ids: Tensor, **rest: Any) -> Tensor:
            if rest.get("mask") is not None:
                sizes.append(rest["mask"].numel())
                same = bool((position_ids == position_ids[0]).all())
                assert (rest["mask"].numel() == 1) == same
            return super().hidden(input_ids, position_ids, **rest)

    watched = Sizes(student.model, own_end_ids=(0,), alignment=student.alignment)
    engine = engine_of(watched, teacher)
    for requests in (ragged(5, size=13), alike(3)):
        generate(engine, requests, FixedBudgetBlend(budget=0.1))
    assert min(sizes) == 1 < max(sizes)
