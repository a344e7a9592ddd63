"""What behaviours that open responses with given tokens share: where those come from, and that
every token after them is the student's own."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from tandem.behaviours.base import Behaviour, CompletionSource, Law
from tandem.types import Author, Clock


class Giving(Behaviour):
    """Given tokens, then the student. Given ones are drawn from no law here; the rest are p's."""

    completions: Annotated[
        Literal["teacher", "dataset", "cache"],
        Field(
            description="given tokens: the teacher sampled on the fly at temperature 1, the "
            "dataset's `completion` column, or teacher samples kept in the folder `cache`"
        ),
    ] = "teacher"
    cache: Annotated[
        str | None,
        Field(description="folder of teacher samples, filled once and reused; only with `cache`"),
    ] = None

    @model_validator(mode="after")
    def _cache_is_named_where_it_is_used(self) -> Self:
        if self.completions == "cache" and self.cache is None:
            raise ValueError(
                "completions is cache, but no folder is named: set cache to one, which is filled "
                "as the run goes."
            )
        if self.completions != "cache" and self.cache is not None:
            raise ValueError(
                f"cache is {self.cache!r}, but completions is {self.completions}, which keeps "
                "nothing: leave cache out, or set completions to cache."
            )
        return self

    @abstractmethod
    def given(self, clock: Clock, *, sequence: Tensor, limit: int, seed: int) -> Tensor:
        """As the base says; each of these methods has its own rule."""

    def gives(self) -> bool:
        return True

    def completion_source(self) -> CompletionSource | None:
        return CompletionSource(self.completions, self.cache) if self.gives() else None

    def __call__(
        self,
        *,
        student_logp: Tensor,
        teacher_logp: Tensor | None,
        clock: Clock,
        position: Tensor,
    ) -> Law:
        del teacher_logp, clock, position
        return Law(student_logp)

    def needs_teacher(self, clock: Clock) -> bool:
        del clock
        return False

    def author(self, clock: Clock) -> Author:
        del clock
        return Author.STUDENT

    def is_always_student(self) -> bool:
        return True
