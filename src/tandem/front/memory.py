"""How much memory a run will want, by component: arithmetic on sizes, nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tandem.front.shapes import Shape
from tandem.training.config import RunConfig

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}

# fp32 rows of one vocabulary per slot that live at once while decoding: student and teacher
# log-probs, and the solver's end points, trial law and temporaries.
VECTORS_BLENDED = 8
VECTORS_STUDENT = 4
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


def parts(config: RunConfig, *, student: Shape, teacher: Shape) -> list[Part]:
    """The components of one process that trains `config` alone (nothing sharded)."""
    return [
        *_standing(config, student, teacher),
        *_rollout(config, student, teacher),
        *_update(config, student, teacher),
    ]


def peak(components: list[Part]) -> int:
    """Bytes at the larger of the two phases: roll-out and update never overlap."""
    return max(
        sum(part.bytes for part in components if part.when in ("always", phase))
        for phase in ("roll-out", "update")
    )


def _standing(config: RunConfig, student: Shape, teacher: Shape) -> list[Part]:
    n, copy = student.parameters, BYTES[config.student.dtype]
    taught = BYTES[config.teacher.dtype]
    return [
        Part("student weights", "always", 4 * n, f"{_count(n)} × 4 B: fp32, whatever its dtype"),
        Part("AdamW moments", "always", 8 * n, f"{_count(n)} × 2 × 4 B"),
        Part("student that rolls out", "always", copy * n, f"{_count(n)} × {copy} B"),
        Part(
            "teacher weights",
            "always",
            taught * teacher.parameters,
            f"{_count(teacher.parameters)} × {taught} B",
        ),
    ]


def _rollout(config: RunConfig, student: Shape, teacher: Shape) -> list[Part]:
    rollout = config.rollout
    responses = rollout.prompts_per_step * rollout.samples_per_prompt
    slots = min(rollout.slots, responses)
    length = rollout.max_prompt_tokens + rollout.max_new_tokens
    stretches = config.timeline().stretches
    blended = any(s.behaviour.needs_teacher(s.first_clock) for s in stretches)
    found: list[Part] = []
    for role, shape, dtype in (
        ("student", student, config.student.dtype),
        ("teacher", teacher, config.teacher.dtype),
    ):
        if role == "teacher" and not blended:
            continue
        each = shape.cache_values * BYTES[dtype]
        found.append(
            Part(
                f"{role} cache",
                "roll-out",
                slots * length * each,
                f"{slots} slots × {length} tokens × {each / 1024:.0f} KiB, all full",
            )
        )
    vectors = VECTORS_BLENDED if blended else VECTORS_STUDENT
    rows = max(student.rows, teacher.rows)
    found.append(
        Part(
            "vocabulary vectors",
            "roll-out",
            slots * rows * 4 * vectors,
            f"{slots} slots × {rows:,} rows × 4 B × {vectors}",
        )
    )
    return found


def _update(config: RunConfig, student: Shape, teacher: Shape) -> list[Part]:
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
    states = tokens * (teacher.hidden * 4 + teacher.intermediate * 3) * BYTES[config.teacher.dtype]
    n = student.parameters
    # A micro-batch smaller than a chunk is one chunk.
    chunk = min(training.head_chunk_bytes, tokens * min(student.rows, teacher.rows) * 4)
    return [
        Part("gradients", "update", 4 * n, f"{_count(n)} × 4 B"),
        Part("activations", "update", values * width, f"{how} × {width} B"),
        Part("teacher's one layer", "update", states, f"{tokens:,} tokens, no gradient"),
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
