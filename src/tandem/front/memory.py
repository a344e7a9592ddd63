"""How much memory a run will want, by component: arithmetic on sizes, nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from tandem.front.shapes import Shape
from tandem.models.cast import role_of
from tandem.rollout.pace import DISTRIBUTIONS, SCRATCH_BYTES, widest
from tandem.training.config import RunConfig

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}

# fp32 rows of one vocabulary per slot and draft that live at once while decoding: student and
# teacher log-probs, and the solver's end points, trial law and temporaries.
VECTORS_BLENDED = 8
VECTORS_STUDENT = 4
SCRATCH = SCRATCH_BYTES * VECTORS_BLENDED // DISTRIBUTIONS
# Copies of one head chunk: logits, log-probs and their gradient; logits and log-probs of the
# teacher.
CHUNK_COPIES = 5

When = Literal["always", "roll-out", "update"]


@dataclass(frozen=True, slots=True)
class Part:
    """One component: bytes it takes, in which phase, and the sum that says so."""

    name: str
    when: When
    bytes: int
    arithmetic: str


def parts(
    config: RunConfig,
    *,
    student: Shape,
    teachers: Mapping[str, Shape],
    reference: Shape | None = None,
) -> list[Part]:
    """The components of one process that trains `config` alone (nothing sharded)."""
    return [
        *_standing(config, student, teachers, reference),
        *_rollout(config, student, teachers),
        *_update(config, student, teachers, reference),
    ]


def peak(components: list[Part]) -> int:
    """Bytes at the larger of the two phases: roll-out and update never overlap."""
    return max(
        sum(part.bytes for part in components if part.when in ("always", phase))
        for phase in ("roll-out", "update")
    )


def _standing(
    config: RunConfig, student: Shape, teachers: Mapping[str, Shape], reference: Shape | None
) -> list[Part]:
    n, copy = student.parameters, BYTES[config.student.dtype]
    found = [
        Part("student weights", "always", 4 * n, f"{_count(n)} × 4 B: fp32, whatever its dtype"),
        Part("AdamW moments", "always", 8 * n, f"{_count(n)} × 2 × 4 B"),
        Part("student that rolls out", "always", copy * n, f"{_count(n)} × {copy} B"),
    ]
    settings = config.teachers_by_name()
    taught = [
        _weights(role_of(name, teachers), teachers[name], settings[name].dtype) for name in teachers
    ]
    if config.residency == "one":
        largest = max(taught, key=lambda part: part.bytes)
        how = f"{largest.arithmetic}: the largest, one at a time"
        taught = [Part("teacher weights", "always", largest.bytes, how)]
    found += taught
    if reference is not None and config.reference is not None:
        found.append(_weights("reference", reference, config.reference.dtype))
    return found


def _weights(role: str, shape: Shape, dtype: str) -> Part:
    width = BYTES[dtype]
    return Part(
        f"{role} weights",
        "always",
        width * shape.parameters,
        f"{_count(shape.parameters)} × {width} B",
    )


def _rollout(config: RunConfig, student: Shape, teachers: Mapping[str, Shape]) -> list[Part]:
    rollout = config.rollout
    responses = rollout.prompts_per_step * rollout.samples_per_prompt
    slots = min(rollout.slots, responses)
    length = rollout.max_prompt_tokens + rollout.max_new_tokens
    laws = [(s.behaviour, s.first_clock) for s in config.timeline().stretches]
    blended = any(behaviour.needs_teacher(clock) for behaviour, clock in laws)
    sources = [behaviour.completion_source() for behaviour, _ in laws]
    # A teacher that writes completions has its cache before the student has its own.
    answers = any(source is not None and source.kind != "dataset" for source in sources)
    found: list[Part] = []
    own = student.cache_values * BYTES[config.student.dtype]
    # Teachers roll out one after another.
    theirs = max(
        shape.cache_values * BYTES[config.teachers_by_name()[name].dtype]
        for name, shape in teachers.items()
    )
    if rollout.cache_gib is not None:
        # The engine takes fewer rows where these would not fit.
        row = length * (own + (theirs if blended else 0))
        slots = max(1, min(slots, int(rollout.cache_gib * GIB) // row))

    def cache(role: str, width: int) -> Part:
        return Part(
            f"{role} cache",
            "roll-out",
            slots * length * width,
            f"{slots} slots × {length} tokens × {width / 1024:.0f} KiB, all full",
        )

    found.append(cache("student", own))
    if blended or answers:
        found.append(cache("teacher", theirs))
    if rollout.engine == "vllm":
        # It sleeps, without either, while a GPU updates.
        copy = BYTES[config.student.dtype]
        how = f"{_count(student.parameters)} × {copy} B + the student cache once more"
        size = copy * student.parameters + found[0].bytes
        found.append(Part("vLLM weights and cache", "roll-out", size, how))
    vectors = VECTORS_BLENDED if blended else VECTORS_STUDENT
    on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    drafts = widest(rollout.block, alone=not blended, replayed=on_gpu)
    rows = max(student.rows, *(shape.rows for shape in teachers.values()))
    found.append(
        Part(
            "vocabulary vectors",
            "roll-out",
            # The engine drafts less where that would be more than this.
            max(slots * rows * 4 * vectors, min(slots * drafts * rows * 4 * vectors, SCRATCH)),
            f"{slots} slots × {drafts} drafts × {rows:,} rows × 4 B × {vectors}",
        )
    )
    return found


def _update(
    config: RunConfig, student: Shape, teachers: Mapping[str, Shape], reference: Shape | None
) -> list[Part]:
    rollout, training = config.rollout, config.training
    tokens = max(
        training.tokens_per_micro_batch, rollout.max_prompt_tokens + rollout.max_new_tokens
    )
    width = BYTES[config.student.dtype]
    # Saved per token and layer: two norms in and out, q k v and the attention's output, the
    # residual, and four of the feed-forward layer.
    layer = 10 * student.hidden + 4 * student.intermediate
    if training.gradient_checkpointing:
        values = tokens * (student.layers * student.hidden + layer)
        how = f"{tokens:,} tokens × ({student.layers} inputs + 1 layer), checkpointed"
    else:
        values = tokens * student.layers * layer
        how = f"{tokens:,} tokens × {student.layers} layers × {layer:,} values"
    settings = config.teachers_by_name()
    frozen = [(shape, settings[name].dtype) for name, shape in teachers.items()]
    if reference is not None and config.reference is not None:
        frozen.append((reference, config.reference.dtype))
    states = max((s.hidden * 4 + s.intermediate * 3) * BYTES[dtype] for s, dtype in frozen)
    n = student.parameters
    # A micro-batch smaller than a chunk is one chunk.
    rows = min(student.rows, *(shape.rows for shape, _ in frozen))
    chunk = min(training.head_chunk_bytes, tokens * rows * 4)
    return [
        Part("gradients", "update", 4 * n, f"{_count(n)} × 4 B"),
        Part("activations", "update", values * width, f"{how} × {width} B"),
        Part("teacher's one layer", "update", tokens * states, f"{tokens:,} tokens, no gradient"),
        Part(
            "head chunks",
            "update",
            CHUNK_COPIES * chunk,
            f"{chunk / 2**20:.1f} MiB × {CHUNK_COPIES}",
        ),
        Part(
            "head gradient",
            "update",
            4 * student.rows * student.hidden,
            f"{student.rows:,} × {student.hidden} × 4 B",
        ),
    ]


def _count(n: int) -> str:
    if n >= 10**9:
        return f"{n / 1e9:.2f} G"
    return f"{n / 1e6:.2f} M"


ASSUMPTIONS = (
    "one process, nothing sharded or offloaded",
    "every slot at its longest, every micro-batch full",
    "attention without a score matrix (SDPA's fused kernels)",
    "allocator slack, CUDA context and libraries not counted: leave 10 % and 2 GiB",
)
