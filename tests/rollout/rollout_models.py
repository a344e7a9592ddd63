"""Tiny random models and an uncached truth for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tandem.behaviours.base import Behaviour
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment
from tandem.rollout import Engine
from tandem.rollout.block import tempered
from tandem.rollout.costs import CostBook
from tandem.rollout.pace import Block, CostTable
from tandem.types import Clock, Request, Rollout, Sampling, SignalSpec

CLOCK = Clock(step=0, total_steps=10)
EVERYTHING = SignalSpec(
    sampled=True,
    student_topk=3,
    teacher_topk=2,
    teacher_entropy=True,
    student_entropy=True,
    dense=True,
)


def qwen3(seed: int, *, vocabulary: int, sharpness: float = 8.0, **changes: Any) -> PreTrainedModel:
    """Two layers of grouped-query attention; a sharp head, so that prefixes matter."""
    sizes = dict(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    return _sharpened(Qwen3ForCausalLM(Qwen3Config(**{**sizes, **changes})), sharpness)


def llama(seed: int, *, vocabulary: int, sharpness: float = 8.0, **changes: Any) -> PreTrainedModel:
    """Three layers, another width: nothing in common with the student but the vocabulary."""
    sizes = dict(
        vocab_size=vocabulary,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    return _sharpened(LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})), sharpness)


def _sharpened(model: Any, sharpness: float) -> PreTrainedModel:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "lm_head" not in name:
                parameter.mul_(6.0)
        model.lm_head.weight.mul_(sharpness)
    return model.eval().requires_grad_(False)


def speakers(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    *,
    size: int,
    student_ends: tuple[int, ...] = (0,),
    teacher_ends: tuple[int, ...] = (0,),
) -> tuple[Speaker, Speaker]:
    """Both models on one alignment of `size` shared ids."""
    alignment = Alignment(
        size=size,
        end_id=student_ends[0],
        student_end_ids=student_ends,
        teacher_end_ids=teacher_ends,
    )
    return (
        Speaker(student, own_end_ids=student_ends, alignment=alignment),
        Speaker(teacher, own_end_ids=teacher_ends, alignment=alignment),
    )


def pair(size: int = 13, seed: int = 1) -> tuple[Speaker, Speaker]:
    """A Qwen3 student and a Llama teacher with end id 0."""
    student, teacher = qwen3(seed, vocabulary=size), llama(seed + 100, vocabulary=size)
    return speakers(student, teacher, size=size)


# With these costs many rows are worth two drafts, fewer four or eight.
COSTS = CostTable((1, 2, 4), (1, 2, 8), ((1.0, 1.0, 1.0), (1.0, 1.4, 3.0), (1.0, 1.5, 9.0)))
BLOCKS: tuple[Block, ...] = (1, 2, 4, 8, "auto")


def engine_of(student: Speaker, teacher: Speaker, *, slots: int = 4, **options: Any) -> Engine:
    """options: of the engine, such as `block`."""
    costs = CostBook()
    costs.keep("teacher", COSTS)
    return Engine(student, {"teacher": teacher}, slots=slots, costs=costs, **options)


def ragged(count: int, *, size: int, seed: int = 0, longest: int = 9) -> list[Request]:
    """Requests whose two prompts differ in length and content; one token at least."""
    generator = torch.Generator().manual_seed(seed)

    def prompt() -> tuple[int, ...]:
        length = int(torch.randint(1, longest + 1, (1,), generator=generator))
        return tuple(torch.randint(1, size, (length,), generator=generator).tolist())

    return [Request(id=100 + i, student_ids=prompt(), teacher_ids=prompt()) for i in range(count)]


def generate(
    engine: Engine, requests: list[Request], behaviour: Behaviour, **changes: Any
) -> list[Rollout]:
    settings: dict[str, Any] = dict(
        clock=CLOCK, sampling=Sampling(max_new_tokens=12), seed=7, record=SignalSpec()
    )
    return engine.generate(requests, behaviour=behaviour, **{**settings, **changes})


def uncached_logp(speaker: Speaker, prompt: tuple[int, ...], response: Iterable[int]) -> Tensor:
    """[t, V] log-probs of each response position, from one whole forward without a cache."""
    ids = torch.tensor([[*prompt, *response]])
    positions = torch.arange(ids.shape[1])[None]
    with torch.no_grad():
        hidden = speaker.hidden(ids, positions)[0, len(prompt) - 1 : -1]
        return torch.log_softmax(speaker.logits(hidden), -1)


def joint_law(
    student: Speaker,
    teacher: Speaker,
    request: Request,
    behaviour: Behaviour,
    *,
    length: int,
    temperature: float = 1.0,
) -> dict[tuple[int, ...], float]:
    """The probability of every response of `length` tokens or fewer, by enumeration."""

    def law(prefix: tuple[int, ...]) -> Tensor:
        p = uncached_logp(student, request.student_ids, (*prefix, 0))[-1:]
        q = uncached_logp(teacher, request.teacher_ids, (*prefix, 0))[-1:]
        asked = behaviour.needs_teacher(CLOCK)
        found = behaviour(
            student_logp=p,
            teacher_logp=q if asked else None,
            clock=CLOCK,
            position=torch.tensor([len(prefix)]),
        )
        return tempered(found.logp, temperature)[0].double().exp()

    open_prefixes: dict[tuple[int, ...], float] = {(): 1.0}
    closed: dict[tuple[int, ...], float] = {}
    for _ in range(length):
        grown: dict[tuple[int, ...], float] = {}
        for (prefix, weight), (token, share) in itertools.chain.from_iterable(
            (((prefix, weight), pair) for pair in enumerate(law(prefix).tolist()))
            for prefix, weight in open_prefixes.items()
        ):
            target = closed if token == student.end_id else grown
            target[(*prefix, token)] = weight * share
        open_prefixes = grown
    return {k: v for k, v in {**closed, **open_prefixes}.items() if v > 0}


def tokens(rollouts: list[Rollout]) -> list[list[int]]:
    return [rollout.ids.tolist() for rollout in rollouts]


def assert_near(found: Tensor | None, truth: Tensor | None, *, atol: float = 1e-5) -> None:
    """Equal to `atol`, the same type and shape."""
    assert found is not None and truth is not None
    assert_close(found, truth, rtol=0.0, atol=atol)


def sampled(logp: Tensor, rollout: Rollout) -> Tensor:
    """[t, V] → [t]: the entries of the response's own tokens."""
    return logp.gather(1, rollout.ids[:, None])[:, 0]


class Watched(Speaker):
    """A speaker that notes the shape of every forward, prefills apart from decoding."""

    def __init__(self, speaker: Speaker) -> None:
        super().__init__(
            speaker.model, own_end_ids=speaker.own_end_ids, alignment=speaker.alignment
        )
        self.prefilled: list[tuple[int, ...]] = []
        self.decoded: list[int] = []
        self.fed: list[tuple[int, ...]] = []

    def hidden(self, input_ids: Tensor, position_ids: Tensor, **rest: Any) -> Tensor:
        if rest.get("mask") is None:
            self.prefilled += [tuple(row) for row in input_ids.tolist()]
        else:
            self.decoded.append(input_ids.shape[0])
            self.fed.append((*input_ids.shape, *rest["mask"].shape))
        return super().hidden(input_ids, position_ids, **rest)


class Unreachable(Speaker):
    """A speaker that must not be called."""

    def __init__(self, speaker: Speaker) -> None:
        super().__init__(
            speaker.model, own_end_ids=speaker.own_end_ids, alignment=speaker.alignment
        )

    def hidden(self, input_ids: Tensor, position_ids: Tensor, **rest: Any) -> Tensor:
        raise AssertionError("this speaker was called")
