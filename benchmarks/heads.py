"""Time and memory of the head and its loss: whole logits, per-chunk checkpointing, chunked.

    python benchmarks/heads.py

1,024 tokens, hidden 1,024, 151,936 rows, a full-vocabulary reverse KL, one thread, value and all
gradients. Each variant runs in a process of its own, so that its peak memory is its own. CPU
seconds are the measure: they do not count what else the machine does.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from multiprocessing.connection import Connection

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tandem.models.chunked_head import chunked_sum
from tandem.models.vocabulary import Alignment, canonicalise

TOKENS, HIDDEN, ROWS = 1024, 1024, 151_936
ALIGNMENT = Alignment(151_669, 151_643, (151_643,), (151_645, 151_643))
DTYPE = torch.bfloat16
SMALL, LARGE = 128, 512
VARIANTS = (
    ("whole", TOKENS),
    ("checkpointed", SMALL),
    ("checkpointed", LARGE),
    ("chunked", SMALL),
    ("chunked", LARGE),
    ("chunked, head frozen", SMALL),
    ("chunked, head frozen", LARGE),
)


def transform(raw: Tensor) -> Tensor:
    return canonicalise(raw.float(), own_end_ids=(151_643,), alignment=ALIGNMENT)


def reverse_kl(logits_CV: Tensor, log_q_V: Tensor) -> Tensor:
    log_p = logits_CV.log_softmax(-1)
    # The masked alias is −inf in both: its term is 0, and so must its gradient be.
    ratio = (log_p - log_q_V).masked_fill(log_p == -torch.inf, 0.0)
    return (log_p.exp() * ratio).sum()


def loss(variant: str, tokens: int, hidden: Tensor, weight: Tensor, log_q: Tensor) -> Tensor:
    if variant == "whole":
        return reverse_kl(transform(F.linear(hidden, weight)), log_q)
    if variant == "checkpointed":

        def chunk_loss(part: Tensor, weight: Tensor) -> Tensor:
            return reverse_kl(transform(F.linear(part, weight)), log_q)

        parts = [
            checkpoint(chunk_loss, part, weight, use_reentrant=False)
            for part in hidden.split(tokens)
        ]
        return torch.stack(parts).sum()
    return chunked_sum(
        hidden,
        weight,
        None,
        transform=transform,
        score=lambda logits, rows: reverse_kl(logits, log_q),
        chunk_bytes=tokens * ROWS * 4,
    )


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run(variant: str, tokens: int, results: Connection) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator).to(DTYPE).requires_grad_()
    weight = torch.empty(ROWS, HIDDEN, dtype=DTYPE)
    weight.normal_(std=HIDDEN**-0.5, generator=generator)
    weight.requires_grad_("frozen" not in variant)
    log_q = transform(torch.randn(1, ROWS, generator=generator)).log_softmax(-1)[0]
    before, start, wall = peak_gib(), time.process_time(), time.perf_counter()
    value = loss(variant, tokens, hidden, weight, log_q)
    value.backward()
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    assert hidden.grad is not None
    peak = peak_gib() - before
    results.send((seconds, wall, peak, float(value.detach()), float(hidden.grad.norm())))


def main() -> None:
    print(f"{TOKENS} tokens x hidden {HIDDEN} x {ROWS} rows, {DTYPE}, one thread")
    print(
        f"{'variant':<22} {'tokens/chunk':>12} {'CPU s':>7} {'wall s':>7} {'peak GiB':>9} "
        f"{'loss':>9} {'grad norm':>10}"
    )
    context = multiprocessing.get_context("spawn")
    for variant, tokens in VARIANTS:
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=run, args=(variant, tokens, send))
        process.start()
        seconds, wall, peak, value, norm = receive.recv()
        process.join()
        print(
            f"{variant:<22} {tokens:>12} {seconds:>7.1f} {wall:>7.1f} {peak:>9.2f} "
            f"{value:>9.2f} {norm:>10.4f}"
        )


if __name__ == "__main__":
    main()
