"""All models of a run, loaded, and as speakers of the vocabulary that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tandem.models.loading import LoadedModel, load_model
from tandem.models.residency import Guest, Stage
from tandem.models.settings import ModelSettings
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment, align


@dataclass(frozen=True, slots=True)
class Cast:
    """The student that rolls out, its teachers by name, and the reference where there is one."""

    student: LoadedModel
    teachers: Mapping[str, LoadedModel]
    reference: LoadedModel | None = None

    @property
    def others(self) -> dict[str, LoadedModel]:
        """Everybody but the student, by the role that messages call them."""
        named = {role_of(name, self.teachers): loaded for name, loaded in self.teachers.items()}
        return named | ({} if self.reference is None else {"reference": self.reference})

    def align(self) -> Alignment:
        """The vocabulary that all of them share; raises ValueError where there is none."""
        return align(self.student, *self.others.values())


def role_of(name: str, teachers: Mapping[str, object]) -> str:
    """What messages call the teacher `name`: by its name only where there are several."""
    return "teacher" if list(teachers) == ["teacher"] else f"teacher {name}"


def load_cast(
    student: ModelSettings,
    teachers: Mapping[str, ModelSettings],
    reference: ModelSettings | None,
    *,
    device: str | torch.device = "cpu",
    teachers_device: str | torch.device | None = None,
) -> Cast:
    """Load all of them, frozen. teachers_device: where the teachers wait, `device` by default.

    Raises ValueError as `load_model` does.
    """
    waiting = device if teachers_device is None else teachers_device
    return Cast(
        student=load_model(student, device=device),
        teachers={name: load_model(one, device=waiting) for name, one in teachers.items()},
        reference=None if reference is None else load_model(reference, device=device),
    )


def speaker(loaded: LoadedModel, alignment: Alignment) -> Speaker:
    """The model speaking the shared vocabulary, with its own end ids."""
    return Speaker(loaded.model, own_end_ids=loaded.end_ids, alignment=alignment)


def teaching(
    cast: Cast, alignment: Alignment, *, device: torch.device, in_turns: bool
) -> dict[str, Speaker]:
    """The teachers as speakers. in_turns: they lie on the host, one at a time on `device`."""
    if not in_turns:
        return {name: speaker(loaded, alignment) for name, loaded in cast.teachers.items()}
    stage = Stage({name: one.model for name, one in cast.teachers.items()}, device=device)
    return {
        name: Guest(one.model, own_end_ids=one.end_ids, alignment=alignment, stage=stage, name=name)
        for name, one in cast.teachers.items()
    }
