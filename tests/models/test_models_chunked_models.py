"""What the chunked head is for: no logits of all tokens, low precision, whole models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from chunked_cases import ALIGNMENT, H, R, random, reverse_kl_to, transform_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tandem.models.chunked_head import chunked_sum
from tandem.models.heads import HeadForm
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment


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
