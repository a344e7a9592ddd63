"""Tokens per second of the rollout engine, against transformers' `generate` and against a bound.

    python benchmarks/engine.py [--quick] [--threads 2]

Rows: a student alone, and a student blended with its teacher within a KL budget (trust-region
behaviour blending). The peer of the first is `generate`; the peer of the second is `generate` with
a logits processor that runs the teacher on its own cache and bisects the exponent in 30 steps.
Everything is sampled at temperature 1 in fp32 with random weights whose logits have a standard
deviation of 2.5, so that the blend has to be solved for.

equal: as many requests as slots, equal prompts and responses. ragged: four requests per slot,
prompts and responses of fixed random lengths (the engine is given the response, so that its length
is fixed; the peer's rows stop at theirs). The peer decodes batches of `slots` requests, in order.

bound: no engine is faster than the forwards it needs. `bare` is the time of these alone, run by
transformers itself on its own dynamic cache, without mask, sampling or record, in the same process:
    equal:  one forward of the prompts, and one of `slots` rows per new token, context growing;
    ragged: one forward per `slots` padded prompts, and ceil(tokens / slots) of `slots` rows, at the
            mean context of a token;
each for the student, and for the teacher too in blended rows. The bound of the ratio engine : peer
is peer seconds / bare seconds; `reached` is the ratio over that bound, which is bare / engine.
Repetitions are interleaved; shown are medians, and the least and the greatest ratio.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    Qwen3Config,
    Qwen3ForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tandem.behaviours import Student, TrustRegionBlend
from tandem.behaviours.base import Behaviour
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment
from tandem.rollout import Engine
from tandem.types import Clock, Request, Sampling, SignalSpec

BUDGET = 0.02
BISECTIONS = 30
END = 0
CLOCK = Clock(step=0, total_steps=1_000_000)
BLEND = TrustRegionBlend(budget=BUDGET, warmup_steps=1_000_000)


@dataclass(frozen=True)
class Body:
    hidden: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Size:
    """One pair and its load. prompt, new: tokens (the longest, where ragged)."""

    name: str
    vocabulary: int
    student: Body
    teacher: Body
    slots: int
    prompt: int
    new: int
    repeats: int


SIZES = (
    Size("embedded", 20, Body(128, 3, 4), Body(128, 4, 4), 64, 24, 64, 5),
    Size("small", 2_048, Body(256, 6, 4), Body(512, 8, 8), 32, 32, 48, 3),
    Size("full", 151_936, Body(256, 4, 4), Body(1024, 4, 16), 8, 32, 24, 3),
)


class Endless(Speaker):
    """A speaker that never draws the end, so that lengths are the workload's."""

    def canonical(self, raw: Tensor) -> Tensor:
        logits = super().canonical(raw)
        logits[..., END] = -torch.inf
        return logits


@dataclass(frozen=True)
class Pair:
    student: Any
    teacher: Any
    engine: Engine


def build(size: Size) -> Pair:
    alignment = Alignment(
        size=size.vocabulary, end_id=END, student_end_ids=(END,), teacher_end_ids=(END,)
    )
    models = [
        model(b, size.vocabulary, seed) for seed, b in enumerate((size.student, size.teacher))
    ]
    student, teacher = [Endless(m, own_end_ids=(END,), alignment=alignment) for m in models]
    return Pair(models[0], models[1], Engine(student, {"teacher": teacher}, slots=size.slots))


def model(body: Body, vocabulary: int, seed: int) -> Any:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=body.hidden,
        intermediate_size=int(body.hidden * 2.75),
        num_hidden_layers=body.layers,
        num_attention_heads=body.heads,
        num_key_value_heads=body.heads // 2,
        head_dim=body.hidden // body.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    made = Qwen3ForCausalLM(config)
    with torch.no_grad():
        made.lm_head.weight.normal_(std=2.5 / math.sqrt(body.hidden))
    return made.eval().requires_grad_(False)


def workload(size: Size, *, ragged: bool) -> list[Request]:
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, size.vocabulary, (count,), generator=generator).tolist())

    def length(longest: int) -> int:
        """Skewed towards short: half of the responses are below a third of the longest."""
        u = float(torch.rand((), generator=generator))
        return max(1, round(longest * (0.1 + 0.9 * u**2))) if ragged else longest

    requests = []
    for i in range(size.slots * (4 if ragged else 1)):
        prompt = ids(length(size.prompt))
        forced = (*ids(length(size.new) - 1), END) if ragged else ()
        requests.append(Request(id=i, student_ids=prompt, teacher_ids=prompt, forced_ids=forced))
    return requests


def new_tokens(request: Request, size: Size) -> int:
    return len(request.forced_ids) or size.new


def run_engine(pair: Pair, size: Size, requests: list[Request], behaviour: Behaviour) -> None:
    rollouts = pair.engine.generate(
        requests,
        behaviour=behaviour,
        clock=CLOCK,
        sampling=Sampling(max_new_tokens=size.new),
        seed=0,
        record=SignalSpec(),
    )
    assert all(len(r) == new_tokens(r.request, size) for r in rollouts)


class Blend(LogitsProcessor):
    """The same law as the engine's: teacher on a cache of its own, exponent by bisection."""

    def __init__(self, teacher: Any, attention: Tensor) -> None:
        self.teacher, self.attention = teacher, attention
        self.cache = DynamicCache(config=teacher.config)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        rows, length = input_ids.shape
        seen = self.cache.get_seq_length()
        more = self.attention.new_ones(rows, length - self.attention.shape[1])
        self.attention = torch.cat([self.attention, more], 1)
        positions = (self.attention.cumsum(1) - 1).clamp(min=0)[:, seen:]
        logits = self.teacher(
            input_ids=input_ids[:, seen:],
            attention_mask=None if bool(self.attention.all()) else self.attention,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return bisect(torch.log_softmax(scores, -1), torch.log_softmax(logits, -1))


def bisect(p: Tensor, q: Tensor) -> Tensor:
    """Logits of the blend p^(1−β) q^β of largest β with KL(blend‖p) ≤ BUDGET: [B, V] → [B, V].

    KL = β E[r] − A(β) with r = log q − log p and A the log-normaliser of p e^{βr}.
    """
    r = (q - p).nan_to_num_(nan=0.0)  # the suppressed end
    low, high = p.new_zeros(len(p), 1), p.new_ones(len(p), 1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        tilted = torch.addcmul(p, r, middle)
        norm = tilted.logsumexp(-1, keepdim=True)
        mean = tilted.sub_(norm).exp_().mul_(r).sum(-1, keepdim=True)
        fits = middle * mean - norm <= BUDGET
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.addcmul(p, r, low)


class At(StoppingCriteria):
    """Each row stops at its own length."""

    def __init__(self, prompt: int, lengths: Tensor) -> None:
        self.prompt, self.lengths = prompt, lengths

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return input_ids.shape[1] - self.prompt >= self.lengths


def run_peer(pair: Pair, size: Size, requests: list[Request], *, blend: bool) -> None:
    config = GenerationConfig(
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        max_new_tokens=size.new,
        pad_token_id=END,
        suppress_tokens=[END],
    )
    for start in range(0, len(requests), size.slots):
        batch = requests[start : start + size.slots]
        longest = max(len(r.student_ids) for r in batch)
        pads = [longest - len(r.student_ids) for r in batch]
        ids = torch.tensor([(END,) * n + r.student_ids for n, r in zip(pads, batch, strict=True)])
        attention = (torch.arange(longest) >= torch.tensor(pads)[:, None]).long()
        lengths = torch.tensor([new_tokens(r, size) for r in batch])
        processors = [Blend(pair.teacher, attention)] if blend else []
        pair.student.generate(
            ids,
            attention_mask=attention,
            generation_config=config,
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList([At(longest, lengths)]),
        )


def run_bare(models: list[Any], size: Size, requests: list[Request], *, ragged: bool) -> None:
    tokens = sum(new_tokens(r, size) for r in requests)
    rounds = -(-tokens // size.slots)
    context = sum(
        new_tokens(r, size) * (len(r.student_ids) + new_tokens(r, size) / 2) for r in requests
    )
    one = torch.ones(size.slots, 1, dtype=torch.int64)
    for each in models:
        cache = DynamicCache(config=each.config)
        for start in range(0, len(requests), size.slots):
            batch = requests[start : start + size.slots]
            width = max(len(r.student_ids) for r in batch) - 1
            cache = DynamicCache(config=each.config)
            if width:
                prompts = torch.ones(len(batch), width, dtype=torch.int64)
                each(input_ids=prompts, past_key_values=cache, use_cache=True, logits_to_keep=1)
        if ragged:
            cache = DynamicCache(config=each.config)
            prompts = one.expand(-1, round(context / tokens) - 1)
            each(input_ids=prompts, past_key_values=cache, use_cache=True, logits_to_keep=1)
        for _ in range(rounds):
            each(input_ids=one, past_key_values=cache, use_cache=True)
            if ragged:
                cache.crop(-1)


def seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        action()
    return time.perf_counter() - start


def measure(size: Size, *, ragged: bool, blend: bool, pair: Pair) -> list[str]:
    """One row of the table."""
    requests = workload(size, ragged=ragged)
    tokens = sum(new_tokens(r, size) for r in requests)
    models = [pair.student, pair.teacher] if blend else [pair.student]
    actions: dict[str, Callable[[], None]] = {
        "bare": lambda: run_bare(models, size, requests, ragged=ragged),
        "engine": lambda: run_engine(pair, size, requests, BLEND if blend else Student()),
        "peer": lambda: run_peer(pair, size, requests, blend=blend),
    }
    times: dict[str, list[float]] = {name: [] for name in actions}
    warm = replace(size, new=2)
    few = [replace(r, forced_ids=()) for r in requests[: size.slots]]
    run_engine(pair, warm, few, BLEND if blend else Student())
    run_peer(pair, warm, few, blend=blend)
    for _ in range(size.repeats):
        for name, action in actions.items():
            times[name].append(seconds(action))
    ratios = [p / e for p, e in zip(times["peer"], times["engine"], strict=True)]
    bounds = [p / b for p, b in zip(times["peer"], times["bare"], strict=True)]
    reached = [b / e for b, e in zip(times["bare"], times["engine"], strict=True)]
    engine, peer = (tokens / statistics.median(times[name]) for name in ("engine", "peer"))
    return [
        f"{size.name} {size.vocabulary:,}",
        "ragged" if ragged else "equal",
        "blend" if blend else "student",
        f"{engine:,.0f}",
        f"{peer:,.0f}",
        f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]",
        f"{statistics.median(bounds):.2f}",
        f"{statistics.median(reached):.2f} [{min(reached):.2f}, {max(reached):.2f}]",
    ]


HEAD = ["pair, ids", "lengths", "law", "engine tok/s", "peer tok/s", "ratio", "bound", "reached"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Engine against transformers' generate.")
    parser.add_argument("--quick", action="store_true", help="one repetition of a quarter the size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=[size.name for size in SIZES])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for size in SIZES:
        if arguments.only not in (None, size.name):
            continue
        chosen = replace(size, new=size.new // 4, repeats=1) if arguments.quick else size
        pair = build(chosen)
        for ragged in (False, True):
            for blend in (False, True):
                row = measure(chosen, ragged=ragged, blend=blend, pair=pair)
                print("| " + " | ".join(row) + " |", flush=True)
    print(f"\n{arguments.threads} threads, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
