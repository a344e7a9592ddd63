"""A loss whose plan needs a sweep, and a student with two teachers and a reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from training_tiny import ALIGNMENT, CLOCK, requests, tiny_model, tiny_pair

from tandem.behaviours import Behaviour, Student
from tandem.models.speaker import Speaker
from tandem.objectives import Objective, ReverseKL
from tandem.objectives.base import Plan, StepTokens
from tandem.rollout.engine import Engine
from tandem.training.step import StepModule, recorded
from tandem.types import Rollout, Sampling, SignalSpec


class Selective(ReverseKL):
    """The default loss on tokens that the teacher finds less likely than the step's median, its
    gate open below one half, the more the further the student has moved."""

    kind: Literal["selective"] = "selective"  # pyright: ignore[reportIncompatibleVariableOverride]
    seen: ClassVar[list[StepTokens]] = []

    def needs(self) -> SignalSpec:
        return super().needs() | SignalSpec(gate=True)

    def planned(self) -> SignalSpec:
        return SignalSpec(sampled=True, current=True)

    def plan(self, step: StepTokens) -> Plan:
        self.seen.append(step)
        tokens, logp = step.tokens, step.signal.sampled_logp
        assert logp is not None and tokens.gate is not None and tokens.current_logp is not None
        everything = step.gather(logp)
        unlikely = logp <= everything.median() if len(everything) else logp <= 0
        moved = (tokens.student_logp - tokens.current_logp).abs()
        weight = (unlikely & (tokens.gate < 0.5)) * (1.0 + moved)
        return Plan(weight=weight, denominator=float((weight != 0).sum()))


@dataclass(frozen=True)
class Cast:
    """Two teachers that end with other ids than the student and than each other, a reference."""

    student: Speaker
    teachers: dict[str, Speaker]
    reference: Speaker

    def module(self, *, chunk_bytes: int = 4 * 40 * 5) -> StepModule:
        return StepModule(
            student=self.student,
            teachers=self.teachers,
            reference=self.reference,
            chunk_bytes=chunk_bytes,
        )

    def roll_out(
        self, objective: Objective, *, behaviour: Behaviour | None = None, count: int = 6
    ) -> list[Rollout]:
        """Every other request is judged by the second teacher."""
        asked = [replace(r, teacher=list(self.teachers)[r.id % 2]) for r in requests(count)]
        return Engine(self.student, self.teachers, slots=4).generate(
            asked,
            behaviour=behaviour or Student(),
            clock=CLOCK,
            sampling=Sampling(max_new_tokens=9),
            seed=7,
            record=recorded(objective),
        )


def make_cast(dtype: torch.dtype = torch.float32) -> Cast:
    student, teacher = tiny_pair(dtype=dtype)
    frozen = [tiny_model(seed, rows=41, dtype=dtype).requires_grad_(False) for seed in (5, 6)]
    other = Speaker(frozen[0], own_end_ids=(5,), alignment=ALIGNMENT)
    reference = Speaker(frozen[1], own_end_ids=(1,), alignment=ALIGNMENT)
    return Cast(student, {"math": teacher, "code": other}, reference)
