"""The engine on a GPU: is it right, and how long do its rounds take?

    python benchmarks/gpu.py [--sizes full|small] [--device cuda]

Right: a tiny random pair in fp32 answers the same requests on the CPU and on the device, where
rounds are CUDA graphs, for blocks of 1, 4 and 8; the share of equal responses and the largest
distance of their log-probs are printed. The branch-free solver is held against the one that
branches, and its fused form against it, with the time of both over the full vocabulary; attention
by lengths, in bf16, against a masked product in fp32.

Speed: a student of the shape of Qwen3-1.7B and a teacher of that of Qwen3-8B, random weights in
bf16 (nothing is downloaded), both caches at a given context, filled with zeros. Milliseconds of a
round for a student alone and for a blend (ε = .03) in blocks of 1, 4 and 8, the acceptance of these
random models in these rounds, and tokens per second at an acceptance of .96, which trained pairs
have (docs/benchmarks.md). Sizes that do not fit are left out. `--sizes small` runs the script with
tiny models, to see that it runs.

On a machine without a GPU it says so and ends, unless `--device cpu --sizes small` is given.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import Qwen3Config, Qwen3ForCausalLM

from tandem.behaviours import Behaviour, FixedBudgetBlend, Student
from tandem.core.blend import solve_blend
from tandem.core.blend_static import fused, solve_static
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment
from tandem.rollout import Engine, varlen
from tandem.rollout.budget import bytes_per_token
from tandem.rollout.graphs import runner_on
from tandem.rollout.lane import Lane
from tandem.rollout.pace import Pace, expected_tokens
from tandem.rollout.queue import Job
from tandem.rollout.session import POSITION, Session, Terms
from tandem.types import Clock, Request, Sampling, SignalSpec

BLEND = FixedBudgetBlend(budget=0.03)
USUAL_ACCEPTANCE = 0.96
WIDTHS = (1, 4, 8)
ROUNDS = 6
CONTEXTS = [(1, 2048), (8, 3584), (32, 3584), (64, 3584), (128, 2048), (256, 1024), (256, 512)]


@dataclass(frozen=True)
class Body:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool


QWEN_1_7B = Body(2048, 6144, 28, 16, 8, 128, True)
QWEN_8B = Body(4096, 12288, 36, 32, 8, 128, False)
TINY = Body(64, 96, 2, 4, 2, 16, False)
HEADED = Body(256, 256, 1, 2, 1, 128, False)


def model(body: Body, vocabulary: int, *, device: str, dtype: torch.dtype, seed: int) -> Any:
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=body.hidden,
        intermediate_size=body.intermediate,
        num_hidden_layers=body.layers,
        num_attention_heads=body.heads,
        num_key_value_heads=body.kv_heads,
        head_dim=body.head_dim,
        max_position_embeddings=16_384,
        tie_word_embeddings=body.tied,
        dtype=dtype,
    )
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            made = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return made.eval().requires_grad_(False)


def speaker_of(made: Any, vocabulary: int) -> Speaker:
    alignment = Alignment(size=vocabulary, end_id=0, student_end_ids=(0,), teacher_end_ids=(0,))
    return Speaker(made, own_end_ids=(0,), alignment=alignment)


def right(device: str) -> None:
    """Prints how far the device is from the CPU."""
    vocabulary = 997
    pair = [model(TINY, vocabulary, device="cpu", dtype=torch.float32, seed=s) for s in (0, 1)]
    for made in pair:
        with torch.no_grad():
            made.lm_head.weight.mul_(40.0)
    requests = [
        Request(i, tuple(range(1, 3 + i % 7)), tuple(range(2, 5 + i % 5))) for i in range(64)
    ]

    def responses(block: int, behaviour: Behaviour) -> list[tuple[list[int], Tensor]]:
        student, teacher = (speaker_of(made, vocabulary) for made in pair)
        engine = Engine(student, {"teacher": teacher}, slots=16, block=block)
        found = engine.generate(
            requests,
            behaviour=behaviour,
            clock=Clock(0, 1),
            sampling=Sampling(max_new_tokens=48),
            seed=0,
            record=SignalSpec(sampled=True),
        )
        return [(r.ids.tolist(), r.student_logp) for r in found]

    laws = {"student": Student(), "blend": FixedBudgetBlend(budget=0.1)}
    truth = {name: responses(1, law) for name, law in laws.items()}
    for made in pair:
        made.to(device)
    for name, law in laws.items():
        for block in WIDTHS if name == "blend" else (1,):
            found = responses(block, law)
            pairs = list(zip(found, truth[name], strict=True))
            same = [(a, b) for (i, a), (j, b) in pairs if i == j]
            far = max((float((a - b).abs().max()) for a, b in same), default=float("nan"))
            print(
                f"{name}, g = {block}: {len(same)} of {len(pairs)} responses equal, {far:.1e} nats"
            )
    generator = torch.Generator().manual_seed(0)
    p, q = (
        torch.log_softmax(3 * torch.randn(64, 20_000, generator=generator), -1) for _ in range(2)
    )
    for budget in (1e-4, 1e-3, 1e-2, 1e-1):
        exact = solve_blend(student_logp=p, teacher_logp=q, budget=budget)
        found = solve_static(p.to(device), q.to(device), budget)
        gap = (found[1].cpu() - exact.kl).abs().max() / budget
        print(f"solver at ε = {budget:g}: KL within {float(gap):.1e} · ε of the branching one")


def kernels(device: str, vocabulary: int) -> None:
    """Prints how far what only a GPU has is from its plain twin."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    speaker = speaker_of(model(HEADED, 97, device=device, dtype=torch.bfloat16, seed=0), 97)
    kernel = varlen.kernel_for(speaker)
    if kernel is None:
        print("attention by lengths: torch has no kernel for it here; rounds are masked")
    else:
        query = draw(8, 16, 4, 128)
        keys, values = draw(2, 8, 512, 8, 128).transpose(2, 3).to(torch.bfloat16)
        lengths = torch.tensor([4, 60, 512, 33, 128, 300, 7, 256], device=device).int()
        found = varlen.attend(
            kernel, query.to(torch.bfloat16), keys, values, lengths, scaling=128**-0.5
        )
        mask = varlen.masked(lengths, fed=4, slots=512)
        truth = scaled_dot_product_attention(
            query, keys.float(), values.float(), attn_mask=mask, enable_gqa=True
        )
        far = (found.float() - truth.transpose(1, 2)).abs().max()
        print(f"attention by lengths: {float(far):.1e} from fp32 over values of {values.std():.1f}")
    p, q = (torch.log_softmax(2 * draw(64, vocabulary), -1) for _ in range(2))
    budget = torch.full((64,), 0.03, device=device)
    plain, quick = solve_static(p, q, budget), fused()(p, q, budget)
    gap = max(float((a - b).abs().max()) for a, b in zip(plain[:2], quick[:2], strict=True))
    times = [seconds(lambda s=s: s(p, q, budget)) for s in (solve_static, fused())]
    print(
        f"solver, 64 rows of {vocabulary:,}: {1e3 * times[0]:.2f} ms plain, {1e3 * times[1]:.2f} "
        f"fused, exponents and KL within {gap:.1e}"
    )


def seconds(action: Callable[[], object], repeats: int = 5) -> float:
    taken: list[float] = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        action()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)


def session_at(
    speakers: list[Speaker], behaviour: Behaviour, *, rows: int, context: int, width: int
) -> Session:
    """A session whose rows stand at this context, over caches of zeros."""
    limit = width * (ROUNDS + 4)
    jobs = [Job(i, Request(i, (1,), (1,))) for i in range(rows)]
    lanes = [Lane(s, rows=rows, capacity=context + limit + width, grows=False) for s in speakers]
    terms = Terms(behaviour, Clock(0, 1), Sampling(max_new_tokens=limit), 0, SignalSpec(), 0)
    session = Session(
        jobs,
        lanes,
        terms,
        slots=rows,
        pace=Pace(width, None, row_bytes=1),
        widest=width,
        deliver=lambda index, rollout: None,
        runner=runner_on(speakers[0].device),
    )
    session.open()
    for lane in lanes:
        vars(lane)["_state"][POSITION] = context
        lane.lengths = [context] * rows
    return session


def milliseconds(session: Session, width: int) -> float:
    """A round, the median of several after those in which its graph is made."""
    taken: list[float] = []
    for _ in range(ROUNDS):
        if len(session.rows) < session.slots:
            break  # an end was drawn: what follows is another shape
        start = time.perf_counter()
        session.round(width)
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken[2:] or taken)


def speed(device: str, *, small: bool) -> None:
    vocabulary = 2_003 if small else 151_936
    dtype = torch.float32 if small else torch.bfloat16
    bodies = (TINY, TINY) if small else (QWEN_1_7B, QWEN_8B)
    speakers = [
        speaker_of(model(body, vocabulary, device=device, dtype=dtype, seed=s), vocabulary)
        for s, body in enumerate(bodies)
    ]
    per_token = sum(bytes_per_token(s) for s in speakers)
    head = ["rows, context", "student, ms", *(f"g = {g}, ms" for g in WIDTHS), "acceptance here"]
    head += ["student tok/s", *(f"g = {g} tok/s at .96" for g in WIDTHS)]
    print("\n| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for rows, context in [(2, 64), (8, 128)] if small else CONTEXTS:
        if device == "cuda" and rows * (context + 128) * per_token > free_bytes():
            print(f"| {rows}, {context} | left out: its keys and values do not fit |")
            continue
        with torch.inference_mode():
            alone = session_at(speakers[:1], Student(), rows=rows, context=context, width=1)
            student = milliseconds(alone, 1)
            del alone
            blends: dict[int, float] = {}
            tried = stayed = 0
            for width in WIDTHS:
                session = session_at(speakers, BLEND, rows=rows, context=context, width=width)
                blends[width] = milliseconds(session, width)
                tried, stayed = tried + session.tally.tried, stayed + session.tally.stayed
                del session
        tokens = {g: 1e3 * rows * expected_tokens(USUAL_ACCEPTANCE, g) / blends[g] for g in WIDTHS}
        cells = [f"{rows}, {context}", f"{student:.2f}", *(f"{blends[g]:.2f}" for g in WIDTHS)]
        cells += [f"{stayed / tried:.3f}", f"{1e3 * rows / student:,.0f}"]
        cells += [f"{tokens[g]:,.0f}" for g in WIDTHS]
        print("| " + " | ".join(cells) + " |", flush=True)


def free_bytes() -> int:
    """What a session may take: nine tenths of what is free, once what is unused is given back."""
    torch.cuda.empty_cache()
    return int(0.9 * torch.cuda.mem_get_info()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description="The engine on a GPU.")
    parser.add_argument("--sizes", choices=["full", "small"], default="full")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    small = arguments.sizes == "small"
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: nothing was measured")
    if arguments.device == "cpu" and not small:
        raise SystemExit("the full sizes need a GPU: give --sizes small")
    start = time.perf_counter()
    if arguments.device == "cuda":
        print(torch.cuda.get_device_name(), "torch", torch.__version__)
    right(arguments.device)
    if arguments.device == "cuda":
        kernels(arguments.device, 2_003 if small else 151_936)
    speed(arguments.device, small=small)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
