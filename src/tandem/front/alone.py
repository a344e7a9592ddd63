"""One model that speaks for itself: loaded, on its own vocabulary, with an engine to sample by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch

from tandem.engines import refuse_engine, vllm_engine
from tandem.models.loading import LoadedModel, load_model
from tandem.models.settings import ModelSettings
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment, align
from tandem.rollout.engine import Engine
from tandem.rollout.protocol import RolloutEngine
from tandem.training.parallel import resolve_device


@dataclass(frozen=True, slots=True)
class Alone:
    """A loaded model, the ids that it speaks, and what samples from it."""

    model: LoadedModel
    alignment: Alignment
    engine: RolloutEngine


@contextmanager
def alone(
    settings: ModelSettings,
    *,
    slots: int,
    longest: int,
    device: str = "auto",
    threads: int | None = None,
    engine: Literal["native", "vllm"] = "native",
) -> Iterator[Alone]:
    """Load a model to sample from; its engine is closed when the block ends.

    slots: rows decoded at once. longest: tokens of the longest prompt and response together.
    threads: CPU threads of PyTorch; None leaves them as they are.
    Ids that its generation_config.json suppresses never occur: a distilled student's law is the
    one it was trained with only where the teacher's end ids stay silent.
    """
    refuse_engine(engine)
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_model(settings, device=resolve_device(device))
    generation = loaded.model.generation_config
    silenced = () if generation is None else tuple(generation.suppress_tokens or ())
    alignment = replace(align(loaded), teacher_end_ids=silenced)
    speaker = Speaker(loaded.model, own_end_ids=loaded.end_ids, alignment=alignment)
    speaks: RolloutEngine = Engine(speaker, {}, slots=slots)
    if engine == "vllm":
        speaks = vllm_engine(speaker, slots=slots, longest=longest)
    try:
        yield Alone(loaded, alignment, speaks)
    finally:
        speaks.close()
