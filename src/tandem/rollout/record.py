"""What is kept of each token, in buffers on the device, read once per finished response.

Shapes: B live rows, g tokens of each, N = B·g, V vocabulary, H the teacher's hidden size, W numbers
per token, t tokens of one response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.core.divergences import entropy
from tandem.rollout.topk import topk
from tandem.types import SignalSpec, TeacherSignal

Columns = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Scores:
    """One round's distributions at g prefixes of B rows: all [B, g, V] but `stats` [B, g] and the
    teacher's `hidden` [B, g, H]; the teacher's parts are None where none was consulted."""

    law_logp: Tensor
    student_logp: Tensor
    teacher_logp: Tensor | None
    teacher_hidden: Tensor | None
    stats: Columns


class Recorder:
    """Buffers for `slots` responses of up to `length` tokens, written at `slot·length + position`;
    one place more, at the end, takes what is no token of any response.

    Three of them, by type: fp32 numbers, token ids, hidden states. A support larger than the
    vocabulary is all of it.
    """

    def __init__(self, spec: SignalSpec, *, slots: int, length: int, vocabulary: int) -> None:
        self._spec = spec.within(vocabulary)
        self._numbers = _Table(slots, length, torch.float32)
        self._ids = _Table(slots, length, torch.int32)
        self._hidden: _Table | None = None
        self._shape = (slots, length)

    def write(self, at: Tensor, ids: Tensor, scores: Scores) -> None:
        """Record the tokens `ids` [B, g] and what the signal needs of them at the places `at`
        [B, g]; what a later call writes at a place replaces it."""
        spec, p = self._spec, scores.student_logp.flatten(0, 1)
        q = None if scores.teacher_logp is None else scores.teacher_logp.flatten(0, 1)
        at, drawn = at.flatten(), ids.flatten()[:, None]
        student = p.gather(1, drawn)[:, 0]
        law = student
        if scores.law_logp is not scores.student_logp:
            law = scores.law_logp.flatten(0, 1).gather(1, drawn)[:, 0]
        numbers: Columns = {"student_logp": student, "behaviour_logp": law}
        chosen: Columns = {}
        for name, value in scores.stats.items():
            numbers[f"stats/{name}"] = value.flatten()
        if spec.student_entropy:
            numbers["student_entropy"] = entropy(p)
        if spec.student_topk:
            chosen["student_topk_ids"] = topk(p, spec.student_topk)[1]
        if q is not None:
            numbers["sampled_logp"] = q.gather(1, drawn)[:, 0]
            if spec.teacher_entropy:
                numbers["entropy"] = entropy(q)
            if spec.student_topk:
                numbers["student_topk_logp"] = q.gather(1, chosen["student_topk_ids"])
            if spec.teacher_topk:
                values, indices = topk(q, spec.teacher_topk)
                numbers["teacher_topk_logp"], chosen["teacher_topk_ids"] = values, indices
        self._numbers.write(at, numbers)
        if chosen:
            self._ids.write(at, chosen)
        if spec.dense and scores.teacher_hidden is not None:
            hidden = scores.teacher_hidden.flatten(0, 1)
            if self._hidden is None:
                self._hidden = _Table(*self._shape, hidden.dtype)
            self._hidden.write(at, {"hidden": hidden})

    def read(self, slots: Sequence[int], lengths: Sequence[int]) -> list[Columns]:
        """The records of finished responses on the CPU, by name: [t], or [t, W] where the name
        has several numbers per token. One transfer per buffer."""
        tables = [t for t in (self._numbers, self._ids, self._hidden) if t is not None]
        parts = [table.read(slots, lengths) for table in tables]
        return [{k: v for part in row for k, v in part.items()} for row in zip(*parts, strict=True)]

    def signal(self, record: Columns) -> TeacherSignal:
        """The parts of one response's record that the objective asked for."""
        names = ["student_topk_ids", "student_topk_logp", "teacher_topk_ids", "teacher_topk_logp"]
        names += ["entropy", "hidden"]
        if self._spec.sampled:
            names.append("sampled_logp")
        return TeacherSignal(**{name: record[name] for name in names if name in record})


class _Table:
    """One buffer [slots·length + 1, W] of several named columns, allocated when first written.

    A column is written as [N], or as [N, w], and read as [t] or [t, w]: a support of one id stays
    [t, 1].
    """

    def __init__(self, slots: int, length: int, dtype: torch.dtype) -> None:
        self._slots, self._length, self._dtype = slots, length, dtype
        self._widths: dict[str, int] = {}
        self._scalars: set[str] = set()
        self._buffer: Tensor | None = None

    def write(self, at: Tensor, columns: Columns) -> None:
        parts = [v[:, None] if v.dim() == 1 else v for v in columns.values()]
        if self._buffer is None:
            self._widths = {k: v.shape[1] for k, v in zip(columns, parts, strict=True)}
            self._scalars = {name for name, value in columns.items() if value.dim() == 1}
            shape = (self._slots * self._length + 1, sum(self._widths.values()))
            with torch.inference_mode(False):  # what is read from it may meet autograd later
                self._buffer = torch.zeros(shape, dtype=self._dtype, device=at.device)
        assert list(self._widths) == list(columns), "a run records the same columns every round"
        row = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        self._buffer.index_copy_(0, at, row.to(self._dtype))

    def read(self, slots: Sequence[int], lengths: Sequence[int]) -> list[Columns]:
        if self._buffer is None:
            return [{} for _ in slots]
        with torch.inference_mode(False):
            rows = torch.tensor(slots, device=self._buffer.device)
            table = self._buffer[:-1].view(self._slots, self._length, -1)
            block = table[:, : max(lengths)].index_select(0, rows).cpu()
            return [self._split(block[i, :t]) for i, t in enumerate(lengths)]

    def _split(self, rows: Tensor) -> Columns:
        """[t, W] as columns of one copy, which does not hold on to the block it came from."""
        wide = torch.int64 if self._dtype == torch.int32 else self._dtype
        if len(self._widths) == 1:
            (name,) = self._widths
            column = rows.to(wide, copy=True)
            return {name: column[:, 0] if name in self._scalars else column}
        table = rows.t().to(wide, copy=True, memory_format=torch.contiguous_format)
        parts = table.split(list(self._widths.values()))
        pairs = zip(self._widths, parts, strict=True)
        return {name: part[0] if name in self._scalars else part.t() for name, part in pairs}
