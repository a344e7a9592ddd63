"""The step module: everything one update computes, in one forward.

Student body, its head, the teacher and the chunked objective live in one nn.Module, so that
sharded parameters (tied heads too) are gathered exactly where they are used.
Shapes: N tokens, C tokens of a chunk, V shared vocabulary, H hidden size, K support.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from tandem.core.divergences import entropy
from tandem.core.reduce import MetricSums
from tandem.core.support import log_softmax_at
from tandem.models.speaker import Speaker
from tandem.objectives.base import Objective
from tandem.training.batch import Inputs, MicroBatch
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch


def recorded(objective: Objective) -> SignalSpec:
    """What a roll-out should keep: all that the objective and its plan read, and the teacher's
    entropy for the log, which costs a blended roll-out only the sum."""
    return objective.needs() | objective.planned() | SignalSpec(teacher_entropy=True)


class StepModule(nn.Module):
    """Scores micro-batches; its `forward` returns this rank's part of the step's one loss.

    teachers: by the name that requests carry. reference: a frozen model that reads what the
    student reads, for objectives that ask for it.
    """

    def __init__(
        self,
        *,
        student: Speaker,
        teachers: Mapping[str, Speaker],
        reference: Speaker | None = None,
        chunk_bytes: int,
    ) -> None:
        super().__init__()
        # Registered as modules; the speakers reach the same parameters through them.
        self.student_model = student.model
        frozen = {f"teacher {name}": speaker.model for name, speaker in teachers.items()}
        if reference is not None:
            frozen["reference"] = reference.model
        self.frozen_models = nn.ModuleDict(frozen)
        self.student = student
        self.teachers = dict(teachers)
        self.reference = reference
        self.chunk_bytes = chunk_bytes

    def forward(
        self, batch: MicroBatch, *, objective: Objective, clock: Clock, scale: float
    ) -> tuple[Tensor, MetricSums]:
        """Σ weight · surrogate · scale, with gradient, and the sums of this batch's metrics.

        scale: 1 / the plan's denominator over all ranks, times whatever the gradient reduction
        divides by. Teacher and reference run only where the record does not cover what the
        objective needs. An empty batch gives 0 with zero gradients.
        """
        spec = objective.needs()
        hidden_NH = _predicting(self.student, batch.student)
        fill = self._completion(batch, spec)
        sums = MetricSums()

        def score(logits_CV: Tensor, rows: slice) -> Tensor:
            weight, tokens = batch.weight[rows], batch.tokens[rows]
            signal = fill(rows)
            result = objective.loss(
                logits_CV, signal=signal, tokens=tokens, weight=weight, clock=clock
            )
            # A weight of 0 leaves a token out, also where its surrogate is inf.
            trained = weight != 0
            loss = (weight * result.surrogate.masked_fill(~trained, 0.0)).sum()
            sums.add(result.metrics)
            value = result.value.masked_fill(~trained, 0.0)
            sums.add({objective.value_name: (value.sum(), trained.sum())})
            # What is logged is the value and not the surrogate, whose size means nothing; it is
            # divided like the gradient, by the step's denominator, and not here.
            # A surrogate that is not finite has to show, whatever its value is: 0 · inf is nan.
            sums.add({"loss": ((weight * value).sum() + 0.0 * loss.detach(), 0.0)})
            if signal.entropy is not None:
                sums.add({"teacher_entropy": (signal.entropy.sum(), float(len(tokens)))})
            return loss * scale

        loss = self.student.chunked(hidden_NH, score, chunk_bytes=self.chunk_bytes)
        return loss, sums

    @torch.no_grad()
    def sweep(self, batch: MicroBatch, spec: SignalSpec) -> tuple[TeacherSignal, Tensor | None]:
        """What `spec` asks for of every token, without gradients: the batch's signal with what it
        lacked, and log p(y) [N] of the student as it is now where `spec.current` asks for it.

        Dense log-probs are never kept: a plan cannot ask for them.
        """
        assert not spec.dense, "a plan reads numbers per token, not whole distributions"
        fill = self._completion(batch, spec)
        signals: list[TeacherSignal] = []
        current: list[Tensor] = []
        hidden_NH = _predicting(self.student, batch.student) if spec.current else None

        def keep(rows: slice) -> None:
            signals.append(fill(rows))

        def score(logits_CV: Tensor, rows: slice) -> Tensor:
            keep(rows)
            ids = batch.tokens.ids[rows].unsqueeze(-1)
            current.append(log_softmax_at(logits=logits_CV, ids=ids).squeeze(-1))
            return logits_CV.new_zeros(())

        if hidden_NH is not None:
            self.student.chunked(hidden_NH, score, chunk_bytes=self.chunk_bytes)
        else:
            size = max(1, self.chunk_bytes // (4 * self.student.vocabulary_size))
            for start in range(0, len(batch.tokens), size):
                keep(slice(start, min(start + size, len(batch.tokens))))
        if not signals:
            return batch.signal, batch.tokens.student_logp if spec.current else None
        return TeacherSignal.cat(signals), torch.cat(current) if spec.current else None

    def _completion(self, batch: MicroBatch, spec: SignalSpec) -> Callable[[slice], TeacherSignal]:
        """A function from the rows of a chunk to their signal, with all that `spec` needs."""
        teacher_NH, reference_NH = self._teacher_states(batch, spec), None
        if spec.reference and batch.signal.reference_logp is None and len(batch.tokens):
            assert self.reference is not None, "checked when the recipe was read"
            with torch.no_grad():
                reference_NH = _predicting(self.reference, batch.student)

        def fill(rows: slice) -> TeacherSignal:
            signal, tokens = batch.signal[rows], batch.tokens[rows]
            if teacher_NH is not None:
                teacher = self.teachers[batch.teacher_name]
                signal = complete(
                    signal,
                    teacher_logits=teacher.logits(teacher_NH[rows]),
                    tokens=tokens,
                    spec=spec,
                )
            if reference_NH is not None:
                assert self.reference is not None
                with torch.no_grad():
                    logits = self.reference.logits(reference_NH[rows])
                    logp = log_softmax_at(logits=logits, ids=tokens.ids.unsqueeze(-1)).squeeze(-1)
                signal = replace(signal, reference_logp=logp)
            return signal

        return fill

    @torch.no_grad()
    def _teacher_states(self, batch: MicroBatch, spec: SignalSpec) -> Tensor | None:
        """[N, H] of the teacher, or None where its log-probs are already on record."""
        spec = replace(spec, reference=False)
        if not len(batch.tokens) or _covers(batch.signal, spec):
            return None
        if batch.signal.hidden is not None:
            return batch.signal.hidden
        return _predicting(self.teachers[batch.teacher_name], batch.teacher)


def complete(
    signal: TeacherSignal, *, teacher_logits: Tensor, tokens: TokenBatch, spec: SignalSpec
) -> TeacherSignal:
    """The signal of one chunk with what `spec` needs filled in from the teacher's logits [C, V].

    What was recorded stays as it is. The student's top-k ids are those of the rollout: they are
    never selected again. Dense log q [C, V] exists for this chunk only.
    """
    with torch.no_grad():
        logp = torch.log_softmax(teacher_logits, dim=-1)
        spec = spec.within(logp.shape[-1])
        sampled, student_topk = signal.sampled_logp, signal.student_topk_logp
        teacher_ids, teacher_topk = signal.teacher_topk_ids, signal.teacher_topk_logp
        if spec.sampled and sampled is None:
            sampled = logp.gather(-1, tokens.ids.unsqueeze(-1)).squeeze(-1)
        if spec.student_topk and student_topk is None:
            assert signal.student_topk_ids is not None, "the rollout recorded no top-k ids"
            student_topk = logp.gather(-1, signal.student_topk_ids)
        if spec.teacher_topk and teacher_topk is None:
            teacher_topk, teacher_ids = logp.topk(spec.teacher_topk, dim=-1)
        return TeacherSignal(
            sampled_logp=sampled,
            student_topk_ids=signal.student_topk_ids,
            student_topk_logp=student_topk,
            teacher_topk_ids=teacher_ids,
            teacher_topk_logp=teacher_topk,
            entropy=entropy(logp) if signal.entropy is None else signal.entropy,
            reference_logp=signal.reference_logp,
            hidden=signal.hidden,
            logp=logp if spec.dense else None,
        )


def _covers(signal: TeacherSignal, spec: SignalSpec) -> bool:
    # Recorded hidden states still have to go through the teacher's head.
    return signal.covers(spec) and not (spec.dense and signal.logp is None)


def _predicting(speaker: Speaker, inputs: Inputs) -> Tensor:
    """[N, H] hidden states that predict the response tokens, valid positions only."""
    hidden_BLH = speaker.hidden(inputs.ids, inputs.positions)
    return hidden_BLH.flatten(0, 1).index_select(0, inputs.index)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that are gathered, and recomputed, one at a time."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def recompute_layers(model: nn.Module) -> None:
    """Keep only each layer's input for the backward and compute the rest again there."""
    for layer in decoder_layers(model):
        # What transformers asks a layer for. `training` is set on the layer alone: all inside stays
        # in evaluation mode, so no dropout sets the law that is trained apart from the one that
        # spoke.
        options: dict[str, Any] = {
            "gradient_checkpointing": True,
            "_gradient_checkpointing_func": partial(checkpoint, use_reentrant=False),
            "training": True,
        }
        vars(layer).update(options)
