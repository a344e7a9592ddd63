"""Attention by lengths, with a plain product in the place of the GPU's kernel: rows see what they
hold and no more, and responses are those of masked rounds."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rollout_models import EVERYTHING, engine_of, generate, pair, ragged
from test_rollout_blocks import assert_same
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from tandem.behaviours import Behaviour, FixedBudgetBlend, SpeculativeKD, Student
from tandem.rollout import attention, lane
from tandem.rollout.attention import row_by_row
from tandem.rollout.cache import SlotCache
from tandem.rollout.graphs import repeated
from tandem.rollout.pace import Block
from tandem.rollout.varlen import attend, interface, kernel_for, masked

BLEND = FixedBudgetBlend(budget=0.1)


def plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    **options: Any,
) -> Tensor:
    """What torch's kernel is documented to do, a row at a time in float64: queries [T, N, D] over
    keys [T', G, D], the first `seqused_k` of each row, the last query on the last of them."""
    inspect.signature(varlen_attn).bind(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options
    )
    assert options["window_size"] == (-1, 0) and options["enable_gqa"]
    used = options["seqused_k"]
    assert used.dtype == cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    group = query.shape[1] // key.shape[1]
    parts: list[Tensor] = []
    for row, length in enumerate(used.tolist()):
        q = query[cu_seq_q[row] : cu_seq_q[row + 1]].double()
        k, v = (x[cu_seq_k[row] : cu_seq_k[row] + length].double() for x in (key, value))
        assert len(q) == max_q <= length <= max_k == int(cu_seq_k[row + 1] - cu_seq_k[row])
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))
        scores = torch.einsum("lnd,snd->nls", q, k) * options["scale"]
        late = torch.arange(length) > torch.arange(length - max_q, length)[:, None]
        weights = scores.masked_fill(late, -torch.inf).softmax(-1)
        parts.append(torch.einsum("nls,snd->lnd", weights, v))
    return torch.cat(parts).to(query.dtype)


@pytest.mark.parametrize("fixed", [False, True], ids=["fitting", "fixed shapes"])
@pytest.mark.parametrize("block", [1, 4, "auto"])
@pytest.mark.parametrize(
    "behaviour",
    [Student(), BLEND, SpeculativeKD(top_k=3, teacher_temperature=1.0)],
    ids=lambda b: b.kind,
)
def test_responses_are_those_of_masked_rounds(
    behaviour: Behaviour, block: Block, fixed: bool
) -> None:
    student, teacher = pair()
    requests = ragged(17, size=13)
    truth = generate(engine_of(student, teacher, slots=5), requests, behaviour, record=EVERYTHING)
    calls: list[int] = []

    def kernel(*given: Any, **options: Any) -> Tensor:
        calls.append(given[5])
        return plain(*given, **options)

    engine = engine_of(
        student,
        teacher,
        slots=5,
        block=block,
        kernel_for=lambda speaker: kernel,
        runner=lambda device: repeated if fixed else None,
    )
    assert_same(generate(engine, requests, behaviour, record=EVERYTHING), truth)
    assert calls and all(s.config._attn_implementation == "sdpa" for s in (student, teacher))


@pytest.mark.parametrize("fed", [1, 3])
def test_a_row_sees_what_it_holds_and_no_more(fed: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, fed, 8, generator=generator)
    # As the cache keeps them, [B, S, G, D]; beyond a row's length lies what must not be read.
    keys, values = torch.randn(2, 3, 9, 2, 8, generator=generator)
    lengths = torch.tensor([3, 9, 5], dtype=torch.int32)
    for row, length in enumerate(lengths.tolist()):
        keys[row, length:] = values[row, length:] = 1e4
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    found = attend(plain, query, keys, values, lengths, scaling=0.3)
    mask = masked(lengths, fed=fed, slots=9)
    truth = scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=0.3, enable_gqa=True
    )
    assert_close(found, truth.transpose(1, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("fed", [1, 3])
def test_a_cpu_attends_row_by_row_over_what_each_holds(fed: int) -> None:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(3, 4, fed, 8, generator=generator)
    keys, values = torch.randn(2, 3, 2, 9, 8, generator=generator)
    lengths = torch.tensor([3, 9, 5], dtype=torch.int32)
    for row, length in enumerate(lengths.tolist()):
        keys[row, :, length:] = values[row, :, length:] = torch.nan
    found = row_by_row(query, keys, values, lengths.tolist(), 0.3)
    mask = masked(lengths, fed=fed, slots=9)
    truth = scaled_dot_product_attention(
        query,
        keys.nan_to_num(),
        values.nan_to_num(),
        attn_mask=mask,
        scale=0.3,
        enable_gqa=True,
    )
    assert_close(found, truth.transpose(1, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("behaviour", [Student(), BLEND], ids=lambda b: b.kind)
def test_rows_attended_one_by_one_give_the_same_responses(
    behaviour: Behaviour, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = pair()
    requests = ragged(17, size=13)
    truth = generate(engine_of(student, teacher, slots=5), requests, behaviour, record=EVERYTHING)
    monkeypatch.setattr(lane, "A_ROW_ALONE", 0)
    alone: list[int] = []
    monkeypatch.setattr(
        attention, "row_by_row", lambda *given: alone.append(len(given[3])) or row_by_row(*given)
    )
    engine = engine_of(student, teacher, slots=5, block=block)
    assert_same(generate(engine, requests, behaviour, record=EVERYTHING), truth)
    assert alone and max(alone) == 5


def test_rows_are_attended_one_by_one_where_that_saves_reading() -> None:
    cache = SlotCache(layers=1, rows=2, capacity=64)
    assert cache.spares([1, 40], used=40) == 0, "nothing is written yet"
    cache.aim(torch.zeros(2, 1, dtype=torch.int64), rows=2, used=40)
    new = torch.zeros(2, 3, 1, 4)
    cache.update(new, new, 0)
    # 39 slots of one row, keys and values of three heads of four numbers of four bytes.
    assert cache.spares([1, 40], used=40) == 39 * 2 * 3 * 4 * 4


def test_the_mask_of_lengths_is_causal_inside_a_block() -> None:
    found = masked(torch.tensor([2, 4], dtype=torch.int32), fed=2, slots=4)
    t, f = True, False
    expected = [[[[t, f, f, f], [t, t, f, f]]], [[[t, t, t, f], [t, t, t, t]]]]
    assert found.tolist() == expected


def test_what_the_kernel_does_not_do_is_masked() -> None:
    """Capped scores, say: the lengths become a mask for the attention that was there before."""
    seen: list[Tensor | None] = []

    def before(*given: Any, **options: Any) -> tuple[Tensor, None]:
        seen.append(given[4])
        return given[1], None

    def refused(*given: Any, **options: Any) -> Tensor:
        raise AssertionError("the kernel has no caps")

    run = interface(refused, before)
    query, keys = torch.zeros(2, 4, 1, 8), torch.zeros(2, 2, 5, 8)
    lengths = torch.tensor([1, 5], dtype=torch.int32).view(2, 1, 1, 1)
    run(torch.nn.Module(), query, keys, keys, lengths, softcap=30.0)
    run(torch.nn.Module(), query, keys, keys, None)
    assert seen[0] is not None and seen[0].sum(-1).flatten().tolist() == [1, 5] and seen[1] is None


@pytest.mark.parametrize(
    ("device", "dtype", "size", "serves"),
    [
        ("cuda", torch.bfloat16, 128, True),
        ("cuda", torch.float16, 64, True),
        ("cuda", torch.float32, 128, False),
        ("cpu", torch.bfloat16, 128, False),
        ("cuda", torch.bfloat16, 36, False),
        ("cuda", torch.bfloat16, 512, False),
    ],
)
def test_the_kernel_serves_a_gpu_in_half_precision_with_heads_it_knows(
    device: str, dtype: torch.dtype, size: int, serves: bool
) -> None:
    config = SimpleNamespace(to_dict=lambda: {"head_dim": size})
    speaker: Any = SimpleNamespace(device=torch.device(device), dtype=dtype, config=config)
    assert (kernel_for(speaker) is varlen_attn) is serves
    assert serves or kernel_for(speaker) is None


def test_both_orders_of_memory_hold_the_same() -> None:
    """Writing, filling, moving and growing, heads side by side or tokens side by side."""
    caches = [SlotCache(layers=2, rows=3, capacity=40, by_token=by) for by in (False, True)]
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randn(2, 2, 2, 4, 6, 5, generator=generator)
    new = torch.randn(2, 3, 4, 2, 5, generator=generator)
    seen: list[Tensor] = []
    for cache in caches:
        cache.fill(torch.tensor([2, 0]), prompts)
        cache.aim(torch.tensor([[6, 7], [0, 1], [20, 21]]), rows=3, used=24)
        for layer in range(2):
            cache.update(new[0], new[1], layer)
        cache.move([2], [1], used=24)
        cache.aim(torch.tensor([[8, 9], [22, 23], [22, 23]]), rows=3, used=24)
        found = [cache.update(new[1], new[0], layer) for layer in range(2)]
        seen.append(torch.stack([torch.stack([x[:, :, :24] for x in pair]) for pair in found]))
    assert_close(seen[0], seen[1], rtol=0, atol=0)
    keys = caches[1].update(new[1], new[0], 0)[0]
    assert keys.shape[2] == caches[1].slots and keys.transpose(1, 2).is_contiguous()
