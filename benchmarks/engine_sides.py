"""The sides of benchmarks/engine.py: models, workloads, transformers' `generate`, bare forwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
from transformers.cache_utils import DynamicLayer

from tandem.behaviours.base import Behaviour
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment
from tandem.rollout import Engine
from tandem.types import Clock, Request, Sampling, SignalSpec

BUDGET = 0.02
BISECTIONS = 30
END = 0
CLOCK = Clock(step=0, total_steps=1_000_000)


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


def workload(size: Size, *, ragged: bool, seed: int) -> list[Request]:
    generator = torch.Generator().manual_seed(seed)

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


def schedule(size: Size, requests: list[Request]) -> list[tuple[int, int]]:
    """(live rows, longest context) of each round, where a free slot is refilled at once."""
    queue = [(len(r.student_ids), new_tokens(r, size)) for r in reversed(requests)]
    live: list[tuple[int, int]] = []
    rounds: list[tuple[int, int]] = []
    while queue or live:
        while queue and len(live) < size.slots:
            live.append(queue.pop())
        rounds.append((len(live), max(context for context, _ in live)))
        live = [(context + 1, left - 1) for context, left in live if left > 1]
    return rounds


def run_bare(models: list[Any], size: Size, requests: list[Request]) -> None:
    """The forwards of that schedule, and of the prompts in batches, and nothing else."""
    rounds = schedule(size, requests)
    one = torch.ones(size.slots, 1, dtype=torch.int64)
    for each in models:
        for start in range(0, len(requests), size.slots):
            batch = requests[start : start + size.slots]
            prompts = torch.ones(len(batch), max(len(r.student_ids) for r in batch) - 1).long()
            cache = DynamicCache(config=each.config)
            if prompts.numel():
                each.model(input_ids=prompts, past_key_values=cache, use_cache=True)
        config = each.config
        shape = (size.slots, config.num_key_value_heads, size.prompt + size.new, config.head_dim)
        # Keys and values of every layer apart: one block for all would stay in the processor's
        # cache, which those of no decoding model do.
        past = torch.zeros(config.num_hidden_layers, 2, *shape)
        cache = DynamicCache(config=config)
        for layer, (keys, values) in enumerate(past):
            cache.update(keys[:, :, :0], values[:, :, :0], layer)
        for rows, context in rounds:
            for layer, (keys, values) in zip(cache.layers, past, strict=True):
                assert isinstance(layer, DynamicLayer)
                layer.keys = keys[:rows, :, : context - 1]
                layer.values = values[:rows, :, : context - 1]
            each(input_ids=one[:rows], past_key_values=cache, use_cache=True)
