"""The chunked head against the whole logits it never makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tandem.models.chunked_head import chunked_sum
from tandem.models.heads import HeadForm
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment, canonicalise

N, H, R = 11, 6, 20
ALIGNMENT = Alignment(size=17, end_id=2, student_end_ids=(2, 18), teacher_end_ids=(5, 2))
WHOLE = Alignment(size=R, end_id=2, student_end_ids=(2,))


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def reverse_kl_to(target_NV: Tensor) -> Callable[[Tensor, slice], Tensor]:
    """A weighted reverse KL with as many weights as tokens: wrong rows or order would show."""
    weight = torch.linspace(0.5, 2.0, target_NV.shape[0], dtype=torch.float64)

    def score(logits: Tensor, rows: slice) -> Tensor:
        log_p = logits.log_softmax(-1)
        log_q = target_NV[rows].to(logits.dtype).log_softmax(-1)
        possible = log_p > -torch.inf
        ratio = torch.where(possible, log_p, 0) - torch.where(possible, log_q, 0)
        return ((log_p.exp() * ratio).sum(-1) * weight[rows].to(logits.dtype)).sum()

    return score


def transform_of(form: HeadForm, alignment: Alignment) -> Callable[[Tensor], Tensor]:
    def transform(raw: Tensor) -> Tensor:
        wide = raw.to(torch.promote_types(raw.dtype, torch.float32))
        own = alignment.student_end_ids
        return canonicalise(form(wide), own_end_ids=own, alignment=alignment)

    return transform


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
    with torch.no_grad():
        free = chunked_sum(hidden, weight, None, chunk_bytes=160, **options)
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


class Largest(TorchDispatchMode):
    """Remember the number of elements of every tensor that an operation makes, views of the
    weight left out."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.sizes: set[int] = set()
        self.weight = weight.untyped_storage().data_ptr()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = (x for x in tree_leaves(result) if isinstance(x, Tensor))
        self.sizes |= {x.numel() for x in made if x.untyped_storage().data_ptr() != self.weight}
        return result


@pytest.mark.parametrize("frozen", [False, True])
def test_logits_of_all_tokens_never_exist(frozen: bool) -> None:
    tokens, chunk = 400, 8
    target = random(tokens, ALIGNMENT.size, seed=4)
    score, transform = reverse_kl_to(target), transform_of(HeadForm(cap=2.0), ALIGNMENT)
    hidden = random(tokens, H, seed=1).requires_grad_()
    weight = random(R, H, seed=2).requires_grad_(not frozen)
    with Largest(weight) as chunked:
        chunked_sum(
            hidden, weight, None, transform=transform, score=score, chunk_bytes=chunk * R * 4
        ).backward()
    with Largest(weight) as naive:
        score(transform(hidden @ weight.t()), slice(0, tokens)).backward()
    assert max(naive.sizes) == tokens * R
    # The hidden states and their gradient are the largest; else a chunk of logits.
    assert max(chunked.sizes - {tokens * H}) <= max(chunk * R, tokens)
    assert (R * H in chunked.sizes) == (not frozen)


@pytest.mark.parametrize("tokens", [7, 64, 300])
def test_bf16_errs_no_more_than_the_naive_bf16_loss(tokens: int) -> None:
    n, h, rows = 300, 32, 97
    target = random(n, rows, seed=4)
    score = reverse_kl_to(target)
    start = [random(n, h, seed=1).bfloat16(), (random(rows, h, seed=2) / h**0.5).bfloat16()]

    def gradients(run: Any, dtype: torch.dtype) -> list[Tensor]:
        hidden, weight = (x.detach().clone().to(dtype).requires_grad_() for x in start)
        value = run(hidden, weight)
        value.backward()
        assert hidden.grad is not None and weight.grad is not None
        return [value.detach().double(), hidden.grad.double(), weight.grad.double()]

    def naive(hidden: Tensor, weight: Tensor) -> Tensor:
        raw = hidden @ weight.t()
        wide = raw.to(torch.promote_types(raw.dtype, torch.float32))
        return score(wide, slice(0, n))

    def chunked(hidden: Tensor, weight: Tensor) -> Tensor:
        def transform(raw: Tensor) -> Tensor:
            return raw.to(torch.promote_types(raw.dtype, torch.float32))

        return chunked_sum(
            hidden, weight, None, transform=transform, score=score, chunk_bytes=tokens * rows * 4
        )

    exact = gradients(naive, torch.float64)
    plain = gradients(naive, torch.bfloat16)
    ours = gradients(chunked, torch.bfloat16)
    for truth, rough, found in zip(exact, plain, ours, strict=True):
        tolerance = 1e-3 * float(truth.norm())
        assert float((found - truth).norm()) <= float((rough - truth).norm()) + tolerance


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("frozen_head", [False, True])
def test_a_whole_model_learns_as_from_its_whole_logits(
    tied: bool, checkpointing: bool, frozen_head: bool, make_model: Any
) -> None:
    alignment = Alignment(size=33, end_id=1, student_end_ids=(1,), teacher_end_ids=(4, 1))
    ids = torch.randint(2, 37, (3, 5), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(5).expand(3, 5)
    score = reverse_kl_to(random(15, 33, seed=4))
    gradients = []
    for chunked in (True, False):
        model = make_model(dtype=torch.float64, tie_word_embeddings=tied)
        if checkpointing and chunked:
            model.train().activation_checkpointing_enable({"use_reentrant": False})
        model.get_output_embeddings().weight.requires_grad_(not frozen_head)
        speaker = Speaker(model, own_end_ids=(1,), alignment=alignment)
        hidden = speaker.hidden(ids, positions).flatten(0, 1)
        if chunked:
            value = speaker.chunked(hidden, score, chunk_bytes=4 * 37 * 4)
        else:
            value = score(speaker.logits(hidden), slice(0, 15))
        value.backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        gradients.append({"value": value.detach(), **found})
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    assert (head in gradients[0]) == (not frozen_head)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)
