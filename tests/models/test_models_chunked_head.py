"""The chunked head against the whole logits it never makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from chunked_cases import ALIGNMENT, WHOLE, H, N, R, random, reverse_kl_to, transform_of
from torch import Tensor
from torch.nn import functional as F

from tandem.models.chunked_head import chunked_sum
from tandem.models.heads import HeadForm
from tandem.models.vocabulary import Alignment


def both_ways(
    transform: Any, score: Any, *, tokens: int, bias: bool, dtype: torch.dtype, scale: float = 1.0
) -> tuple[list[Tensor], list[Tensor]]:
    """Value and gradients of hidden, weight and bias: chunked, and from the whole logits."""
    results = []
    for chunked in (True, False):
        hidden = random(N, H, seed=1, dtype=dtype).requires_grad_()
        weight = random(R, H, seed=2, dtype=dtype).requires_grad_()
        offset = random(R, seed=3, dtype=dtype).requires_grad_() if bias else None
        if chunked:
            value = chunked_sum(
                hidden, weight, offset, transform=transform, score=score, chunk_bytes=tokens * R * 4
            )
        else:
            value = score(transform(F.linear(hidden, weight, offset)), slice(0, N))
        (scale * value).backward()
        grads = [x.grad for x in (hidden, weight, offset) if x is not None]
        assert all(g is not None for g in grads)
        results.append([value.detach(), *grads])
    return results[0], results[1]


def test_one_token_of_two_ids_by_hand() -> None:
    hidden = torch.tensor([[1.0, 2.0]], requires_grad=True)
    weight = torch.zeros(2, 2, requires_grad=True)
    value = chunked_sum(
        hidden,
        weight,
        None,
        transform=lambda raw: raw,
        score=lambda logits, rows: -logits.log_softmax(-1)[:, 0].sum(),
        chunk_bytes=1,
    )
    value.backward()
    # p = (1/2, 1/2): loss log 2, and the gradient of the logits is p − (1, 0) = (−1/2, 1/2).
    torch.testing.assert_close(value, torch.tensor(2.0).log())
    torch.testing.assert_close(weight.grad, torch.tensor([[-0.5, -1.0], [0.5, 1.0]]))
    torch.testing.assert_close(hidden.grad, torch.zeros(1, 2))


@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 4, 10, 11, 1000])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("form", "alignment"),
    [
        (HeadForm(), WHOLE),
        (HeadForm(), ALIGNMENT),
        (HeadForm(scale=0.3), ALIGNMENT),
        (HeadForm(cap=1.5), ALIGNMENT),
    ],
)
def test_value_and_gradients_equal_the_whole_logits_for_any_chunk(
    tokens: int, bias: bool, form: HeadForm, alignment: Alignment
) -> None:
    score = reverse_kl_to(random(N, alignment.size, seed=4))
    transform = transform_of(form, alignment)
    found, expected = both_ways(transform, score, tokens=tokens, bias=bias, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tokens", [1, 4, 11])
def test_fp32_is_as_tight_as_fp32_is(tokens: int) -> None:
    score = reverse_kl_to(random(N, 17, seed=4))
    transform = transform_of(HeadForm(), ALIGNMENT)
    found, expected = both_ways(transform, score, tokens=tokens, bias=True, dtype=torch.float32)
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)


def test_gradient_of_a_log_probability_is_analytic() -> None:
    hidden, weight = random(N, H, seed=1).requires_grad_(), random(R, H, seed=2).requires_grad_()
    token = torch.arange(N) % R
    chunked_sum(
        hidden,
        weight,
        None,
        transform=lambda raw: raw,
        score=lambda logits, rows: logits.log_softmax(-1).gather(1, token[rows, None]).sum(),
        chunk_bytes=3 * R * 4,
    ).backward()
    with torch.no_grad():
        logit_gradient = F.one_hot(token, R) - (hidden @ weight.t()).softmax(-1)
        torch.testing.assert_close(hidden.grad, logit_gradient @ weight)
        torch.testing.assert_close(weight.grad, logit_gradient.t() @ hidden)


def test_backward_multiplies_by_the_incoming_gradient() -> None:
    score = reverse_kl_to(random(N, 17, seed=4))
    transform = transform_of(HeadForm(), ALIGNMENT)
    found, expected = both_ways(
        transform, score, tokens=4, bias=True, dtype=torch.float64, scale=-0.37
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_split_into_micro_batches_changes_nothing() -> None:
    score = reverse_kl_to(random(N, R, seed=4))
    options: dict[str, Any] = {"transform": transform_of(HeadForm(), WHOLE), "chunk_bytes": 240}
    hidden, weight = random(N, H, seed=1), random(R, H, seed=2).requires_grad_()
    whole = chunked_sum(hidden, weight, None, score=score, **options)
    (expected,) = torch.autograd.grad(whole, weight)
    for cut in (0, 4, 11):
        parts = [
            chunked_sum(
                hidden[cut * i : (cut, N)[i]],
                weight,
                None,
                score=lambda z, rows, at=cut * i: score(z, slice(rows.start + at, rows.stop + at)),
                **options,
            )
            for i in (0, 1)
        ]
        total = parts[0] + parts[1]
        torch.testing.assert_close(total, whole)
        torch.testing.assert_close(torch.autograd.grad(total, weight)[0], expected)


def test_no_tokens_give_zero_and_zero_gradients() -> None:
    hidden, weight = torch.empty(0, H, requires_grad=True), torch.randn(R, H, requires_grad=True)
    bias = torch.randn(R, requires_grad=True)

    def never(logits: Tensor, rows: slice) -> Tensor:
        raise AssertionError("an empty batch has no chunk to score")

    value = chunked_sum(hidden, weight, bias, transform=lambda z: z, score=never, chunk_bytes=80)
    value.backward()
    assert float(value.detach()) == 0.0
    for tensor in (hidden, weight, bias):
        assert tensor.grad is not None and tensor.grad.shape == tensor.shape
        assert not bool(tensor.grad.any())


def test_a_score_that_ignores_the_logits_has_zero_gradient() -> None:
    hidden, weight = torch.randn(3, H, requires_grad=True), torch.randn(R, H, requires_grad=True)
    value = chunked_sum(
        hidden,
        weight,
        None,
        transform=lambda raw: raw,
        score=lambda logits, rows: logits.new_tensor(2.0),
        chunk_bytes=80,
    )
    value.backward()
    assert float(value.detach()) == 6.0
    assert hidden.grad is not None and not bool(hidden.grad.any())


def test_chunks_come_once_in_order_and_hold_the_bytes_asked_for() -> None:
    seen: list[tuple[int, int, int]] = []

    def score(logits: Tensor, rows: slice) -> Tensor:
        seen.append((rows.start, rows.stop, logits.shape[0]))
        return logits.sum()

    weight = torch.randn(R, H, requires_grad=True)
    chunked_sum(
        torch.randn(N, H),
        weight,
        None,
        transform=lambda z: z,
        score=score,
        chunk_bytes=4 * R * 4 + 3,
    ).backward()
    assert seen == [(0, 4, 4), (4, 8, 4), (8, 11, 3)]


def test_without_gradient_the_value_is_the_same_and_nothing_is_kept() -> None:
    score = reverse_kl_to(random(N, 17, seed=4))
    hidden, weight = random(N, H, seed=1), random(R, H, seed=2).requires_grad_()
    options: dict[str, Any] = {"transform": transform_of(HeadForm(), ALIGNMENT), "score": score}
    kept = chunked_sum(hidden, weight, None, chunk_bytes=160, **options)

    def ungraded(logits: Tensor, rows: slice) -> Tensor:
        assert not logits.requires_grad, "no gradient of the logits is made either"
        return score(logits, rows)

    with torch.no_grad():
        free = chunked_sum(hidden, weight, None, chunk_bytes=160, **{**options, "score": ungraded})
    assert not free.requires_grad and torch.equal(free, kept.detach())


def test_backward_runs_once() -> None:
    weight = torch.randn(R, H, requires_grad=True)
    value = chunked_sum(
        torch.randn(N, H),
        weight,
        None,
        transform=lambda z: z,
        score=lambda z, rows: z.sum(),
        chunk_bytes=1,
    )
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="for one backward pass only"):
        value.backward()
