"""Which teacher judges which prompt, and which sets of models a recipe may name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tandem.models.settings import ModelSettings
from tandem.tasks.base import Prompt
from tandem.training.phases import Timeline

# What requests call the one teacher of a recipe that names no several.
ONLY_TEACHER = "teacher"


def teacher_of(prompt: Prompt, names: Collection[str]) -> str:
    """The name of the teacher that judges `prompt`: the only one, or that of its domain.

    Raises ValueError, naming the domain and the teachers there are.
    """
    if list(names) == [ONLY_TEACHER]:
        return ONLY_TEACHER
    if prompt.domain not in names:
        domain = f"domain {prompt.domain!r}" if prompt.domain else "no domain"
        raise ValueError(
            f"prompt {prompt.id!r} has {domain}, but the teachers are {', '.join(names)}: name a "
            "teacher for it, or leave such prompts out"
        )
    return prompt.domain


def check_teachers(
    teacher: ModelSettings | None, teachers: Mapping[str, ModelSettings], residency: str
) -> None:
    """Raise ValueError unless a recipe names one teacher, or several in one way."""
    if (teacher is None) == (not teachers):
        given = "both teacher and teachers" if teachers else "neither teacher nor teachers"
        raise ValueError(
            f"the recipe gives {given}: give one teacher, or several by the domains they judge"
        )
    for name in teachers:
        if not name or "." in name:
            raise ValueError(f"teachers has the name {name!r}: give a domain, a word without a dot")
    if residency == "one" and len(teachers) < 2:
        raise ValueError(
            "residency is one, but there is a single teacher, which stays on the device: leave "
            "residency out"
        )


def check_reference(line: Timeline, reference: ModelSettings | None) -> None:
    """Raise ValueError where an objective compares with a reference and there is none."""
    for objective in line.objectives:
        if objective.needs().reference and reference is None:
            raise ValueError(
                f"objective {objective.kind} compares with a reference model, but the recipe names "
                "none: add reference, such as the student's own path"
            )
