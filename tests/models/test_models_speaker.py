"""A speaker's body and head against the model's own forward."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from tandem.models.heads import (
    FEW_ROWS,
    FEW_ROWS_SHARED,
    MANY_IDS,
    HeadForm,
    head_form,
    project,
)
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment

FAMILIES = ["qwen3", "llama", "gemma2", "cohere", "granite", "hyperclovax", "phi"]

WHOLE = Alignment(size=37, end_id=1, student_end_ids=(1,))


def speaker_of(model: PreTrainedModel, alignment: Alignment = WHOLE) -> Speaker:
    return Speaker(model, own_end_ids=alignment.student_end_ids, alignment=alignment)


def some_ids(*shape: int) -> torch.Tensor:
    return torch.randint(2, 37, shape, generator=torch.Generator().manual_seed(3))


def positions_of(ids: torch.Tensor) -> torch.Tensor:
    return torch.arange(ids.shape[1]).expand_as(ids)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_body_and_head_apart_give_the_models_own_logits(family: str, make_model: Any) -> None:
    model = make_model(family)
    speaker, ids = speaker_of(model), some_ids(2, 7)
    found = speaker.logits(speaker.hidden(ids, positions_of(ids)))
    torch.testing.assert_close(found, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_forms_that_are_not_linear_matter_in_the_test_above(make_model: Any) -> None:
    for family in ("gemma2", "cohere", "granite", "hyperclovax"):
        model = make_model(family)
        speaker, ids = speaker_of(model), some_ids(1, 5)
        raw = speaker.head(speaker.hidden(ids, positions_of(ids)))
        assert float((raw - model(input_ids=ids).logits).abs().max()) > 0.1
    assert make_model("phi").lm_head.bias.abs().max() > 0.1


def test_scale_and_cap_by_hand() -> None:
    raw = torch.tensor([2.0, -4.0])
    torch.testing.assert_close(HeadForm(scale=0.5)(raw), torch.tensor([1.0, -2.0]))
    expected = 3 * torch.tensor([2 / 3, -4 / 3]).tanh()
    torch.testing.assert_close(HeadForm(cap=3.0)(raw), expected)
    assert HeadForm()(raw) is raw


def test_a_head_known_not_to_fit_is_refused_by_name(make_model: Any) -> None:
    config = make_model().config.__class__()
    config.model_type = "minicpm3"
    with pytest.raises(ValueError, match=r"type minicpm3 .* divides the hidden state before the"):
        head_form(config)


def test_a_head_that_is_no_linear_layer_is_refused(make_model: Any) -> None:
    model = make_model(tie_word_embeddings=False)
    model.lm_head = torch.nn.Sequential(torch.nn.Linear(16, 37))
    with pytest.raises(ValueError, match="head of Qwen3ForCausalLM is a Sequential, not a linear"):
        speaker_of(model)


@torch.no_grad()
def test_logits_are_canonical_and_fp32_under_bf16_weights(make_model: Any) -> None:
    model = make_model(dtype=torch.bfloat16)
    alignment = Alignment(30, 1, (1,), (2, 1))
    speaker = Speaker(model, own_end_ids=(2, 1), alignment=alignment)
    hidden = torch.randn(3, 16).bfloat16()
    logits, raw = speaker.logits(hidden), model.lm_head(hidden).float()
    assert logits.dtype == torch.float32 and logits.shape == (3, speaker.vocabulary_size)
    torch.testing.assert_close(logits[:, 1], raw[:, 1:3].logsumexp(-1))
    assert torch.equal(logits[:, 3:], raw[:, 3:30]) and bool((logits[:, 2] == -torch.inf).all())


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["qwen3", "llama", "cohere", "granite", "phi"])
def test_cached_hidden_states_equal_uncached_ones_on_ragged_rows(
    family: str, attention: str, make_model: Any
) -> None:
    model = make_model(family)
    model.set_attn_implementation(attention)
    speaker, ids = speaker_of(model), some_ids(2, 8)
    lengths, prompt = torch.tensor([5, 3]), 5
    # Right-padded prompts of 5 and 3, then three tokens each in slots 5 to 7: the row of three
    # never attends to its two padding slots, and its positions run on without them.
    cache = DynamicCache(config=model.config)
    slots = torch.arange(8)
    seen = (slots[None] < lengths[:, None]) | (slots[None] >= prompt)
    causal = torch.ones(8, 8, dtype=torch.bool).tril()
    mask = (causal[None] & seen[:, None])[:, None]
    positions = torch.where(slots < prompt, slots, slots - prompt + lengths[:, None])
    mask[1, 0, 3:5, 0] = True  # padding queries attend to something, so that they stay finite
    speaker.hidden(ids[:, :5], positions[:, :5], mask=mask[:, :, :5, :5], cache=cache)
    cached = [
        speaker.hidden(
            ids[:, t : t + 1],
            positions[:, t : t + 1],
            mask=mask[:, :, t : t + 1, : t + 1],
            cache=cache,
        )
        for t in range(5, 8)
    ]
    for row, length in enumerate(lengths.tolist()):
        alone = torch.cat([ids[row, :length], ids[row, 5:]])[None]
        expected = speaker.hidden(alone, positions_of(alone))[0, -3:]
        found = torch.cat(cached, 1)[row]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_explicit_causal_mask_changes_nothing(attention: str, make_model: Any) -> None:
    model = make_model()
    model.set_attn_implementation(attention)
    speaker, ids = speaker_of(model), some_ids(2, 6)
    causal = torch.ones(6, 6, dtype=torch.bool).tril().expand(2, 1, 6, 6)
    torch.testing.assert_close(
        speaker.hidden(ids, positions_of(ids), mask=causal),
        speaker.hidden(ids, positions_of(ids)),
        rtol=1e-5,
        atol=1e-5,
    )


def asks(head: torch.nn.Linear, hidden: torch.Tensor) -> bool:
    """Whether the product is the library's: the layer's own way is called."""
    called: list[bool] = []
    original = torch.nn.functional.linear

    def noted(*given: Any, **options: Any) -> torch.Tensor:
        called.append(True)
        return original(*given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", noted)
        project(head, hidden)
    return bool(called)


def test_a_head_that_does_more_than_a_product_is_called_as_it_is() -> None:
    hidden = torch.randn(3, 6)
    plain = torch.nn.Linear(6, MANY_IDS)
    assert not asks(plain, hidden)
    assert asks(torch.nn.Linear(6, MANY_IDS - 1), hidden)
    assert asks(plain.to(torch.float64), hidden.double())
    plain.to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert project(plain, hidden).dtype == plain(hidden).dtype

    class Doubled(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    doubled = Doubled(6, MANY_IDS)
    assert torch.equal(project(doubled, hidden), doubled(hidden))
    hook = plain.register_forward_hook(lambda *called: torch.zeros_like(called[2]))
    assert not project(plain, hidden).any()
    hook.remove()
    before = plain.register_forward_pre_hook(lambda *called: (torch.zeros_like(called[1][0]),))
    assert torch.equal(project(plain, hidden), plain(hidden))
    before.remove()


@pytest.mark.parametrize("rows", [(1,), (2,), (4,), (8, 4), (33,)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_few_rows_through_a_large_head_are_the_heads_own(
    rows: tuple[int, ...], bias: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(6, MANY_IDS, bias=bias), torch.randn(*rows, 6)
    turned = 1 < math.prod(rows) <= (FEW_ROWS if threads == 1 else FEW_ROWS_SHARED)
    assert asks(head, hidden) is not turned
    hidden.requires_grad_()
    found, truth = project(head, hidden), head(hidden)
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous()
    gradients = [
        torch.autograd.grad(out.square().sum(), [hidden, *head.parameters()])
        for out in (found, truth)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
