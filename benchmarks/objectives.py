"""Memory and time of every objective through the chunked heads, beside naive forms and peers.

    python benchmarks/objectives.py [--tokens 1024 4096] [--threads 2] [--only NAME ...]

Hidden states of 256 in bf16, heads of 151,936 rows for student and teacher, one update's value
and gradients (of the hidden states and of the student's head). Each row runs in a process of its
own, so that its peak is its own; `peak` counts what was added to the inputs. `signal` is what the
teacher contributes per token: for the sampled token and for top-k supports it was recorded when the
tokens were drawn, so that no teacher runs here; dense forms get the teacher's hidden states and
apply its head chunk by chunk.

naive: whole logits of both models and autograd, in fp32. TRL and Liger (their chunked generalised
JSD and distillation loss, on the same inputs) run where they are installed; they know no other loss
and take reverse KL as beta 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn import functional as F

from tandem.core.divergences import forward_kl, generalised_jsd, reverse_kl
from tandem.models.chunked_head import chunked_sum
from tandem.objectives import AnyObjective, Objective, ReverseKL
from tandem.objectives.base import StepTokens
from tandem.training.step import complete
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch

HIDDEN, ROWS, CHUNK_BYTES = 256, 151_936, 2**28
DTYPE = torch.bfloat16
CLOCK = Clock(3, 20)
SAMPLED: dict[str, Any] = {"support": "sampled"}
FULL: dict[str, Any] = {"support": "full"}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "reverse_kl, top-16": {"kind": "reverse_kl"},
    "reverse_kl, K1": {"kind": "reverse_kl"} | SAMPLED,
    "reverse_kl, full": {"kind": "reverse_kl"} | FULL,
    "reverse_kl, K1 with baseline": {"kind": "reverse_kl", "baseline": "expected"} | SAMPLED,
    "trust_region": {"kind": "trust_region"},
    "trust_region, mask": {"kind": "trust_region", "gate": "none", "outlier": "mask"},
    "trust_region, full support": {"kind": "trust_region", "gate": "expected"} | FULL,
    "forward_kl, top-64": {"kind": "forward_kl", "support": "teacher_topk"},
    "forward_kl, full": {"kind": "forward_kl"} | FULL,
    "generalized_jsd": {"kind": "generalized_jsd"},
    "skew_kl": {"kind": "skew_kl", "direction": "reverse"},
    "entropy_aware": {"kind": "entropy_aware"},
    "entropy_selected": {"kind": "entropy_selected"},
    "relaxed": {"kind": "relaxed", "stages": "one"},
    "asymmetric": {"kind": "asymmetric"},
    "veto": {"kind": "veto", "start_beta": 0.4},
    "extrapolated": {"kind": "extrapolated"},
    "proximal": {"kind": "proximal", "alpha": 0.5},
    "drift_gate, K1": {"kind": "drift_gate", "tau": 1.0, "objective": ReverseKL(**SAMPLED)},
    "supervised": {"kind": "supervised"},
    "constant_advantage": {"kind": "constant_advantage"},
}
NAIVE: dict[str, Callable[..., Tensor]] = {
    "naive reverse KL": reverse_kl,
    "naive forward KL": forward_kl,
    "naive JSD": lambda *, student_logp, teacher_logp: generalised_jsd(
        log_p=student_logp, log_q=teacher_logp, beta=0.5, ends="special"
    ),
}
PEERS = {"TRL reverse KL": 1.0, "TRL JSD": 0.5, "Liger reverse KL": 1.0, "Liger JSD": 0.5}


class Inputs:
    """What every side is given: hidden states and heads of both models, and the drawn tokens."""

    def __init__(self, tokens: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int, std: float) -> Tensor:
            return torch.empty(*shape, dtype=DTYPE).normal_(std=std, generator=generator)

        self.hidden = normal(tokens, HIDDEN, std=1.0).requires_grad_()
        self.teacher_hidden = normal(tokens, HIDDEN, std=1.0)
        self.weight = normal(ROWS, HIDDEN, std=2.5 * HIDDEN**-0.5).requires_grad_()
        self.teacher_weight = normal(ROWS, HIDDEN, std=2.5 * HIDDEN**-0.5)
        self.ids = torch.randint(ROWS, (tokens,), generator=generator)


def tokens_of(ids: Tensor) -> TokenBatch:
    count = len(ids)
    index, flat = torch.arange(count), torch.full((count,), -8.0)
    return TokenBatch(
        ids=ids,
        sequence=index // 256,
        position=index % 256,
        behaviour_logp=flat,
        student_logp=flat,
        author=torch.full_like(index, 2),
        policy_version=torch.zeros_like(index),
        forced=torch.zeros(count, dtype=torch.bool),
        student_entropy=torch.rand(count),
        gate=torch.rand(count),
        current_logp=flat,
    )


def recorded(spec: SignalSpec, count: int) -> TeacherSignal:
    """What a rollout would have left: numbers of the right shapes."""

    def support(k: int) -> tuple[Tensor | None, Tensor | None]:
        if not k:
            return None, None
        ids = torch.randint(ROWS, (count, k)).sort(-1).values
        return ids, torch.full((count, k), -12.0)

    student_ids, student_logp = support(spec.student_topk)
    teacher_ids, teacher_logp = support(spec.teacher_topk)
    flat = torch.full((count,), -8.0)
    return TeacherSignal(
        sampled_logp=flat if spec.sampled else None,
        student_topk_ids=student_ids,
        student_topk_logp=student_logp,
        teacher_topk_ids=teacher_ids,
        teacher_topk_logp=teacher_logp,
        entropy=flat.abs() if spec.teacher_entropy else None,
        reference_logp=flat if spec.reference else None,
    )


def signal_bytes(spec: SignalSpec) -> int:
    """Per token: fp32 numbers, int32 ids, bf16 hidden states."""
    numbers = sum([spec.sampled, spec.teacher_entropy, spec.reference])
    supports = 8 * (spec.student_topk + spec.teacher_topk)
    return 4 * numbers + supports + (2 * HIDDEN if spec.dense else 0)


def ours(objective: Objective, inputs: Inputs) -> Tensor:
    spec, tokens = objective.needs() | objective.planned(), tokens_of(inputs.ids)
    signal = recorded(spec, len(tokens))
    weight = objective.plan(StepTokens(tokens, signal, CLOCK)).weight

    def score(logits: Tensor, rows: slice) -> Tensor:
        part = signal[rows]
        if spec.dense:
            with torch.no_grad():
                teacher = F.linear(inputs.teacher_hidden[rows], inputs.teacher_weight).float()
            part = complete(part, teacher_logits=teacher, tokens=tokens[rows], spec=spec)
        result = objective.loss(
            logits, signal=part, tokens=tokens[rows], weight=weight[rows], clock=CLOCK
        )
        return (weight[rows] * result.surrogate).sum()

    return chunked_sum(
        inputs.hidden,
        inputs.weight,
        None,
        transform=lambda raw: raw.float(),
        score=score,
        chunk_bytes=CHUNK_BYTES,
    )


def naive(form: Callable[..., Tensor], inputs: Inputs) -> Tensor:
    student = F.linear(inputs.hidden, inputs.weight).float().log_softmax(-1)
    with torch.no_grad():
        teacher = F.linear(inputs.teacher_hidden, inputs.teacher_weight).float().log_softmax(-1)
    return form(student_logp=student, teacher_logp=teacher).sum()


def peer(name: str, beta: float, inputs: Inputs) -> Tensor:
    sides = (inputs.hidden, inputs.weight, None, inputs.teacher_hidden, inputs.teacher_weight, None)
    if name.startswith("TRL"):
        from trl.kernels.chunked_divergence import (  # pyright: ignore[reportMissingImports]
            ChunkedDivergenceFunction,
        )

        return ChunkedDivergenceFunction.apply(*sides, beta)[0].sum()
    from liger_kernel.chunked_loss import (  # pyright: ignore[reportMissingImports]
        LigerFusedLinearJSDLoss,
    )

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, compiled=False
    )
    return loss(
        inputs.hidden, inputs.weight, inputs.teacher_hidden, inputs.teacher_weight, inputs.ids
    )


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run(name: str, tokens: int, threads: int, results: Connection) -> None:
    torch.set_num_threads(threads)
    inputs, spec = Inputs(tokens), SignalSpec(dense=True)
    if name in OBJECTIVES:
        adapter: TypeAdapter[Objective] = TypeAdapter(AnyObjective)
        objective = adapter.validate_python(OBJECTIVES[name])
        spec = objective.needs() | objective.planned()

        def action() -> Tensor:
            return ours(objective, inputs)
    elif name in NAIVE:

        def action() -> Tensor:
            return naive(NAIVE[name], inputs)
    else:

        def action() -> Tensor:
            return peer(name, PEERS[name], inputs)

    before, cpu, wall = peak_gib(), time.process_time(), time.perf_counter()
    action().backward()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    results.send((signal_bytes(spec), cpu, wall, peak_gib() - before))


def names(only: list[str] | None) -> list[str]:
    installed = {
        "TRL": find_spec("trl") is not None,
        "Liger": find_spec("liger_kernel") is not None,
    }
    peers = [name for name in PEERS if installed[name.split()[0]]]
    everything = [*OBJECTIVES, *NAIVE, *peers]
    return [n for n in everything if only is None or any(n.startswith(o) for o in only)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Objectives through the chunked heads.")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="beginnings of names")
    arguments = parser.parse_args()
    print(f"hidden {HIDDEN}, {ROWS:,} rows, {DTYPE}, {arguments.threads} threads\n")
    print("| objective | signal, bytes per token | tokens | peak, GiB | CPU s | wall s |")
    print("|---|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for name in names(arguments.only):
        for tokens in arguments.tokens:
            receive, send = context.Pipe(duplex=False)
            process = context.Process(target=run, args=(name, tokens, arguments.threads, send))
            process.start()
            send.close()
            try:
                size, cpu, wall, peak = receive.recv()
                row = [f"{size:,}", f"{tokens:,}", f"{peak:.2f}", f"{cpu:.1f}", f"{wall:.1f}"]
            except EOFError:  # the process was killed: it asked for more memory than there is
                row = ["", f"{tokens:,}", "out of memory", "", ""]
            process.join()
            print("| " + " | ".join([name, *row]) + " |", flush=True)


if __name__ == "__main__":
    main()
