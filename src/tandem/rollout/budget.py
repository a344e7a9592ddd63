"""How many rows the keys and values have room for."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedConfig

from tandem.rollout.protocol import SpeakerLike
from tandem.rollout.queue import Job
from tandem.rollout.refusal import RequestRefused
from tandem.types import limit_of

GIB = 2**30


def cache_values(config: PreTrainedConfig) -> int:
    """Numbers that keys and values of one token take in every layer."""
    fields = config.to_dict()
    queries = fields["num_attention_heads"]
    # Older families leave these two out: a key head per query head, of an equal share each.
    heads = fields.get("num_key_value_heads") or queries
    size = fields.get("head_dim") or fields["hidden_size"] // queries
    return 2 * fields["num_hidden_layers"] * heads * size


def bytes_per_token(speaker: SpeakerLike) -> int:
    """Keys and values of one token in every layer."""
    return cache_values(speaker.config) * speaker.dtype.itemsize


def longest_row(jobs: Sequence[Job], side: int, limit: int, *, widest: int) -> int:
    """Slots that the longest of these responses may need in one model, drafts beyond its end
    included: its last token is not fed, but drafts after it may be."""
    lengths = [
        len((job.request.student_ids, job.request.teacher_ids)[side]) + limit_of(job.request, limit)
        for job in jobs
    ]
    return max(lengths) + widest - 2


def affordable(
    jobs: Sequence[Job],
    speakers: Sequence[SpeakerLike],
    *,
    limit: int,
    widest: int,
    cache_bytes: int | None,
) -> int:
    """Rows whose keys and values fit in `cache_bytes` with all at their longest; no limit: all.

    Raises RequestRefused, with the sum, where not even the longest of them alone would.
    """
    if cache_bytes is None:
        return len(jobs)
    costs = [bytes_per_token(speaker) for speaker in speakers]
    rows = [longest_row(jobs, k, limit, widest=widest) for k in range(len(speakers))]
    row = sum(cost * slots for cost, slots in zip(costs, rows, strict=True))
    if row <= cache_bytes:
        return int(cache_bytes // row)
    sides = [range(len(speakers)), costs]
    worst = max(
        jobs,
        key=lambda job: sum(
            c * longest_row([job], k, limit, widest=widest) for k, c in zip(*sides, strict=True)
        ),
    )
    parts = " + ".join(
        f"{longest_row([worst], k, limit, widest=widest):,} tokens × {cost / 1024:.1f} KiB"
        for k, cost in enumerate(costs)
    )
    raise RequestRefused(
        worst.request,
        f"can never fit in the cache: its keys and values may take {parts}, and there are "
        f"{cache_bytes / GIB:.3g} GiB: raise rollout.cache_gib, or allow shorter prompts or fewer "
        "new tokens",
    )
