"""Which engine rolls out, and whether it can be had."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tandem.models.speaker import Speaker
from tandem.rollout.budget import GIB, bytes_per_token
from tandem.rollout.costs import CostBook
from tandem.rollout.engine import Engine
from tandem.rollout.hand_over import HandOver
from tandem.rollout.protocol import RolloutEngine
from tandem.rollout.vllm_engine import VllmEngine
from tandem.rollout.vllm_process import missing
from tandem.training.config import RunConfig
from tandem.training.events import Listener, Note
from tandem.training.parallel import World


def refuse_engine(engine: str, *, processes: int = 1) -> None:
    """Raise ValueError where vLLM is asked for and cannot be had."""
    reason = missing(processes=processes) if engine == "vllm" else None
    if reason is not None:
        raise ValueError(reason)


def training_engine(
    config: RunConfig,
    student: Speaker,
    teachers: Mapping[str, Speaker],
    *,
    folder: Path,
    world: World,
    listener: Listener,
) -> RolloutEngine:
    """What rolls out: the native engine, with vLLM where the student speaks alone if asked.

    folder: the run's, where each rank keeps what decoding costs it.
    """
    rollout, evaluation = config.rollout, config.evaluation
    rank = "" if world.first else f"-rank{world.rank}"
    costs = CostBook(folder / f"engine{rank}.json")
    native = Engine(
        student,
        teachers,
        slots=rollout.slots,
        block=rollout.block,
        costs=costs,
        cache_bytes=cache_bytes(config),
    )
    if rollout.engine == "native":
        return native
    answers = 0 if evaluation is None else evaluation.max_new_tokens or 0

    def start() -> RolloutEngine:
        listener(Note("vLLM starts: from here it speaks for the student alone"))
        return vllm_engine(
            student,
            slots=rollout.slots,
            longest=rollout.max_prompt_tokens + max(rollout.max_new_tokens, answers),
        )

    return HandOver(native, start)


def cache_bytes(config: RunConfig) -> int | None:
    """What keys and values may take; None where the recipe does not say."""
    gib = config.rollout.cache_gib
    return None if gib is None else int(gib * GIB)


def vllm_engine(student: Speaker, *, slots: int, longest: int) -> VllmEngine:
    """vLLM with as much cache as the native engine takes when every slot is at its longest."""
    return VllmEngine(
        student,
        slots=slots,
        longest=longest,
        cache_per_token=bytes_per_token(student),
    )
