"""The head and whatever is scored on it, a chunk of tokens at a time.

The gradient of each chunk is taken inside the forward, while its logits are still there, so that
neither logits nor their gradient ever exist for all tokens, and nothing is computed twice. What
stays is the gradient of the hidden states [N, H] and one gradient of the weight [R, H] in fp32.
Shapes: N tokens, C tokens of a chunk, H hidden size, R head rows, V shared vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Transform = Callable[[Tensor], Tensor]
Score = Callable[[Tensor, slice], Tensor]

# Elements of a narrow weight gradient that are made at a time, before they are added in fp32. On a
# CPU a block that stays in the cache takes half the time; a GPU wants few launches.
CPU_BLOCK, GPU_BLOCK = 2**21, 2**26


def chunked_sum(
    hidden_NH: Tensor,
    weight_RH: Tensor,
    bias_R: Tensor | None,
    *,
    transform: Transform,
    score: Score,
    chunk_bytes: int,
) -> Tensor:
    """Σ_chunks score(transform(hidden_CH · weightᵀ + bias), rows): a scalar in fp32 (or fp64).

    transform: raw outputs [C, R] to logits [C, V] in fp32 or wider. score: those logits, with
    gradient, and the chunk's rows, to a scalar; called once for each chunk, in order. Gradients
    reach the hidden states, the weight and the bias, each only if it requires one; tensors that
    `score` closes over get none. Backward may run once. An empty batch gives 0 with zero
    gradients. Chunks hold `chunk_bytes` of fp32 logits, at least one token.
    """
    rows = weight_RH.shape[0]
    chunks = _Chunks(
        transform=transform,
        score=score,
        tokens=max(1, chunk_bytes // (4 * rows)),
        differentiate=torch.is_grad_enabled(),
    )
    total = _ChunkedSum.apply(hidden_NH, weight_RH, bias_R, chunks)
    assert isinstance(total, Tensor)
    return total


@dataclass(frozen=True, slots=True)
class _Chunks:
    transform: Transform
    score: Score
    tokens: int
    differentiate: bool

    def slices(self, count: int) -> Iterator[slice]:
        for start in range(0, count, self.tokens):
            yield slice(start, min(start + self.tokens, count))

    def value_and_gradient(self, raw_CR: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """The chunk's score, and its gradient in the raw outputs and in their dtype."""
        # Widening is left to `transform`: the graph then holds no wide copy of the raw outputs.
        leaf_CR = raw_CR.detach().requires_grad_()
        with torch.enable_grad():
            value = self.score(self.transform(leaf_CR), rows)
            if not value.requires_grad:
                return value, torch.zeros_like(leaf_CR)
            (grad_CR,) = torch.autograd.grad(value, leaf_CR, materialize_grads=True)
        return value.detach(), grad_CR


class _ChunkedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_RH: Tensor, bias_R: Tensor | None, chunks: _Chunks
    ) -> Tensor:
        need_hidden, need_weight, need_bias = (
            need and chunks.differentiate for need in ctx.needs_input_grad[:3]
        )
        wide = torch.promote_types(weight_RH.dtype, torch.float32)
        total = hidden_NH.new_zeros((), dtype=wide)
        grad_hidden = torch.zeros_like(hidden_NH) if need_hidden else None
        grad_weight = torch.zeros_like(weight_RH, dtype=wide) if need_weight else None
        grad_bias = (
            torch.zeros_like(bias_R, dtype=wide) if bias_R is not None and need_bias else None
        )
        for rows in chunks.slices(hidden_NH.shape[0]):
            hidden_CH = hidden_NH[rows]
            raw_CR = F.linear(hidden_CH, weight_RH, bias_R)
            if not (need_hidden or need_weight or need_bias):
                total += chunks.score(chunks.transform(raw_CR), rows)
                continue
            value, grad_CR = chunks.value_and_gradient(raw_CR, rows)
            total += value
            if grad_bias is not None:
                grad_bias += grad_CR.sum(0, dtype=wide)
            if grad_hidden is not None:
                torch.mm(grad_CR, weight_RH, out=grad_hidden[rows])
            if grad_weight is not None:
                _accumulate(grad_weight, grad_CR, hidden_CH)
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        ctx.dtype = weight_RH.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides `ctx`
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad_output,) = grad_outputs
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the chunked head keeps its gradients for one backward pass only")
        # In place: a second copy of the weight's gradient would be the largest tensor of the step.
        return (
            *(None if g is None else g.mul_(grad_output).to(ctx.dtype) for g in gradients),
            None,
        )


def _accumulate(grad_weight_RH: Tensor, grad_CR: Tensor, hidden_CH: Tensor) -> None:
    if grad_CR.dtype == grad_weight_RH.dtype:
        grad_weight_RH.addmm_(grad_CR.t(), hidden_CH)
        return
    # Narrow products are summed in fp32, in blocks of rows so that no second [R, H] exists.
    rows, size = grad_weight_RH.shape
    step = max(1, (CPU_BLOCK if hidden_CH.device.type == "cpu" else GPU_BLOCK) // size)
    for start in range(0, rows, step):
        block = slice(start, start + step)
        grad_weight_RH[block] += grad_CR[:, block].t() @ hidden_CH
