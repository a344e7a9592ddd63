"""What every suite is: a fixed set of problems, the published protocol, and a grader.

A suite is one small file: a class with its `kind`, `hub` and `folder`, and `problem_of` a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tandem.tasks.base import Prompt, Split, Task
from tandem.tasks.columns import Row, read_rows


class Suite(Task, ABC):
    """A benchmark: problems to answer and how answers are graded. Test problems only.

    data_root: a folder that holds `folder`/problems.jsonl; None reads the hub. samples: answers
    per problem; temperature, max_new_tokens: of the published protocol unless said (top-p 1, no
    top-k).
    """

    # Where its problems are published: a data set of the hub, as columns.py reads it.
    hub: ClassVar[str]
    # The same problems in `data_root`.
    folder: ClassVar[str]
    # What a chat model reads as its system's words, unless it has words of its own.
    instruction: ClassVar[str] = ""
    # Where the instruction goes for a model of plain text that has no template of its own.
    plain_template: ClassVar[str] = "{instruction}\n\n{problem}"

    data_root: Path | None = None
    samples: int = Field(default=1, gt=0)
    temperature: float = Field(default=1.0, gt=0.0)
    max_new_tokens: int = Field(default=8192, gt=0)

    @abstractmethod
    def problem_of(self, row: Row, number: int) -> Prompt:
        """The problem in a row of the source, local or the hub's; `number` counts from 0."""

    def ready(self) -> None:
        """Raises ValueError where answers could not be graded here, and says what is missing: to be
        asked before anything is generated."""

    def source(self) -> str:
        """Where the problems are read from. Raises ValueError where `data_root` lacks them."""
        if self.data_root is None:
            return self.hub
        path = self.data_root / self.folder / "problems.jsonl"
        if not path.is_file():
            raise ValueError(
                f"suite {self.kind} looks for its problems in {path}, and no such file is there: "
                f"mend data_root, or leave it out to read {self.hub} from the hub"
            )
        return str(path)

    def rows(self) -> Sequence[Row]:
        """The rows of the source that are problems, in its order."""
        return read_rows(self.source())

    @cached_property
    def problems(self) -> list[Prompt]:
        """All problems in the source's order."""
        return [self.problem_of(row, n) for n, row in enumerate(self.rows())]

    def prompts(self, split: Split) -> list[Prompt]:
        """Raises ValueError for any split but test: a suite is for judging, not for training."""
        if split != "test":
            raise ValueError(
                f"suite {self.kind} has no {split} problems: it is for judging; train on a task"
            )
        return self.problems

    def id_of(self, row: Row, number: int) -> str:
        """The id that the source gives the problem, or its place there."""
        return str(row["id"]) if "id" in row else f"{self.kind}-{number}"


def asked(text: str) -> tuple[dict[str, str], ...]:
    """A problem as the one turn of a user."""
    return ({"role": "user", "content": text},)
