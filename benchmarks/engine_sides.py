"""The sides of benchmarks/engine.py: transformers' `generate`, and bare forwards."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from engine_pairs import Pair, Size, new_tokens
from tandem.behaviours.base import Behaviour
from tandem.models.speaker import Speaker
from tandem.rollout.budget import bytes_per_token
from tandem.rollout.protocol import RolloutEngine
from tandem.rollout.session import Session
from tandem.rollout.tally import Tally
from tandem.rollout.vllm_engine import VllmEngine
from tandem.types import Clock, Request, Rollout, Sampling, SignalSpec

BISECTIONS = 30
DRAWS = 9
CLOCK = Clock(step=0, total_steps=1_000_000)


# A round of the engine or of a bound: drafts, live rows, the longest of their contexts.
Round = tuple[int, int, int]


def run_engine(
    engine: RolloutEngine, size: Size, requests: list[Request], behaviour: Behaviour, tally: Tally
) -> list[Round]:
    """The requests answered, and the rounds it took."""
    rounds: list[Round] = []
    original = Session.round

    def noted(self: Session, width: int) -> None:
        # The next token to feed counts: it will be a key as well.
        rounds.append((width, len(self.rows), max(self.lanes[0].lengths) + 1))
        original(self, width)

    Session.round = noted
    try:
        rollouts = _answers(engine, size, requests, behaviour, tally)
    finally:
        Session.round = original
    assert all(len(r) == new_tokens(r.request, size) for r in rollouts)
    return rounds[-tally.rounds :]  # those before were measured for the table of costs


def _answers(
    engine: RolloutEngine, size: Size, requests: list[Request], behaviour: Behaviour, tally: Tally
) -> list[Rollout]:
    return engine.generate(
        requests,
        behaviour=behaviour,
        clock=CLOCK,
        sampling=Sampling(max_new_tokens=size.new),
        seed=0,
        record=SignalSpec(),
        tally=tally,
    )


def vllm_engine(student: Speaker, size: Size) -> VllmEngine:
    return VllmEngine(
        student,
        slots=size.slots,
        longest=size.prompt + size.new,
        cache_per_token=bytes_per_token(student),
    )


class Blend(LogitsProcessor):
    """The same law as the engine's: teacher on a cache of its own, exponent by bisection."""

    def __init__(self, teacher: Any, attention: Tensor, end: int, budget: float) -> None:
        self.teacher, self.attention, self.end, self.budget = teacher, attention, end, budget
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
        logits[:, self.end] = -torch.inf
        p, q = torch.log_softmax(scores, -1), torch.log_softmax(logits, -1)
        return bisect(p, q, self.budget)


def bisect(p: Tensor, q: Tensor, budget: float) -> Tensor:
    """Logits of the blend p^(1−β) q^β of largest β with KL(blend‖p) ≤ budget: [B, V] → [B, V].

    KL = β E[r] − A(β) with r = log q − log p and A the log-normaliser of p e^{βr}.
    """
    r = (q - p).nan_to_num_(nan=0.0)  # the suppressed end
    low, high = p.new_zeros(len(p), 1), p.new_ones(len(p), 1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        tilted = torch.addcmul(p, r, middle)
        norm = tilted.logsumexp(-1, keepdim=True)
        mean = tilted.sub_(norm).exp_().mul_(r).sum(-1, keepdim=True)
        fits = middle * mean - norm <= budget
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.addcmul(p, r, low)


class At(StoppingCriteria):
    """Each row stops at its own length."""

    def __init__(self, prompt: int, lengths: Tensor) -> None:
        self.prompt, self.lengths = prompt, lengths

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return input_ids.shape[1] - self.prompt >= self.lengths


def run_peer(pair: Pair, size: Size, requests: list[Request], *, budget: float | None) -> None:
    """`generate` in batches of `slots` requests, in order; blended where there is a budget."""
    config = GenerationConfig(
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        max_new_tokens=size.new,
        pad_token_id=pair.end,
        suppress_tokens=[pair.end],
    )
    for start in range(0, len(requests), size.slots):
        batch = requests[start : start + size.slots]
        longest = max(len(r.student_ids) for r in batch)
        pads = [longest - len(r.student_ids) for r in batch]
        rows = zip(pads, batch, strict=True)
        ids = torch.tensor([(pair.end,) * n + r.student_ids for n, r in rows])
        attention = (torch.arange(longest) >= torch.tensor(pads)[:, None]).long()
        lengths = torch.tensor([new_tokens(r, size) for r in batch])
        blend = [] if budget is None else [Blend(pair.teacher, attention, pair.end, budget)]
        pair.student.generate(
            ids,
            attention_mask=attention,
            generation_config=config,
            logits_processor=LogitsProcessorList(blend),
            stopping_criteria=StoppingCriteriaList([At(longest, lengths)]),
        )


def schedule(size: Size, requests: list[Request], *, width: int, stays: float) -> list[Round]:
    """The rounds of a queue in which a free slot is refilled at once and each of `width` drafts of
    a row stays with chance `stays`: of several draws the one with the median number of rounds."""
    draws = [_drawn(size, requests, width, stays, seed) for seed in range(DRAWS)]
    return sorted(draws, key=len)[DRAWS // 2]


def _drawn(size: Size, requests: list[Request], width: int, stays: float, seed: int) -> list[Round]:
    chance = random.Random(seed)

    def settled() -> int:
        kept = 0
        while kept < width and chance.random() < stays:
            kept += 1
        return min(kept + 1, width)

    queue = [(len(r.student_ids), new_tokens(r, size)) for r in reversed(requests)]
    live: list[tuple[int, int]] = []
    rounds: list[Round] = []
    while queue or live:
        while queue and len(live) < size.slots:
            live.append(queue.pop())
        rounds.append((width, len(live), max(context for context, _ in live)))
        steps = [min(settled(), left) for _, left in live]
        live = [
            (context + step, left - step)
            for (context, left), step in zip(live, steps, strict=True)
            if left > step
        ]
    return rounds


def run_bare(
    pair: Pair, size: Size, requests: list[Request], rounds: list[Round], *, taught: bool
) -> None:
    """The forwards of these rounds, and of the prompts in batches, and nothing else: in a round of
    width g, g of the student over one token, and one of the teacher over g."""
    models = [(pair.student, False)] + ([(pair.teacher, True)] if taught else [])
    widest = max(width for width, _, _ in rounds)
    for model, verifies in models:
        for start in range(0, len(requests), size.slots):
            batch = requests[start : start + size.slots]
            prompts = torch.ones(len(batch), max(len(r.student_ids) for r in batch) - 1).long()
            cache = DynamicCache(config=model.config)
            if prompts.numel():
                model.model(input_ids=prompts, past_key_values=cache, use_cache=True)
        config = model.config
        heads = config.num_key_value_heads
        size_of_head = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        shape = (size.slots, heads, size.prompt + size.new + widest, size_of_head)
        # Keys and values of every layer apart: one block for all would stay in the processor's
        # cache, which those of no decoding model do.
        past = torch.zeros(config.num_hidden_layers, 2, *shape)
        cache = DynamicCache(config=config)
        for layer, (keys, values) in enumerate(past):
            cache.update(keys[:, :, :0], values[:, :, :0], layer)
        ids = torch.ones(size.slots, widest, dtype=torch.int64)
        for width, rows, context in rounds:
            fed, times = (width, 1) if verifies else (1, width)
            for j in range(times):
                for layer, (keys, values) in zip(cache.layers, past, strict=True):
                    assert isinstance(layer, DynamicLayer)
                    layer.keys = keys[:rows, :, : context - 1 + j]
                    layer.values = values[:rows, :, : context - 1 + j]
                model(input_ids=ids[:rows, :fed], past_key_values=cache, use_cache=True)
