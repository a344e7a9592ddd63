"""Mathematics problems from files or the hub, graded by math-verify on the boxed answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from tandem.tasks.base import Grade, Prompt, Split, Task
from tandem.tasks.boxed import grade_boxed
from tandem.tasks.columns import (
    ANSWER_COLUMNS,
    COMPLETION_COLUMNS,
    DOMAIN_COLUMNS,
    PROMPT_COLUMNS,
    Row,
    choose_column,
    gold,
    lookup,
    optional_column,
    read_rows,
    said,
    turns,
)
from tandem.tasks.grading import GradingPool, shared_pool

_BUCKETS = 20
_HELD_OUT: dict[int, Split] = {0: "test", 1: "validation"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A split's prompts, and what was left out of it in words for the doctor."""

    prompts: list[Prompt]
    notes: tuple[str, ...]


class Math(Task):
    """Problems with an answer that math-verify can compare.

    train, validation, test: files or data sets of the hub (see columns.py). A split without a
    source of its own is a twentieth of the training problems, chosen by a hash of their text.
    Training problems that also stand in another split are left out, as are repetitions.
    prompt_column, answer_column: named, dotted into nested columns, or guessed from a short list.
    completion_column, domain_column: the same for whole responses (text, or conversations) and
    for the domain that chooses among several teachers; read of the training source alone, which
    may lack them.
    workers, limit: grading processes, and the seconds that each part of grading may take.
    """

    kind: Literal["math"] = "math"
    train: str
    validation: str | None = None
    test: str | None = None
    prompt_column: str | None = None
    answer_column: str | None = None
    completion_column: str | None = None
    domain_column: str | None = None
    workers: int = Field(default=2, ge=1)
    limit: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _splits_differ(self) -> Math:
        given = [s for s in (self.train, self.validation, self.test) if s is not None]
        if len(set(given)) < len(given):
            raise ValueError(
                "two splits name the same source, so they would overlap: name another, or leave "
                "one out to hold out a twentieth of the training problems"
            )
        return self

    def prompts(self, split: Split) -> list[Prompt]:
        """Raises ValueError for a missing file, an empty data set or columns that are not there."""
        return self.load(split).prompts

    def load(self, split: Split) -> Loaded:
        """The split's prompts with the notes of what was left out."""
        if split not in self._loaded:
            self._loaded[split] = self._load(split)
        return self._loaded[split]

    @cached_property
    def _loaded(self) -> dict[Split, Loaded]:
        return {}

    @property
    def _pool(self) -> GradingPool:
        # Not kept here: a task is plain settings, which are copied and pickled.
        return shared_pool(workers=self.workers, limit=self.limit)

    def _source(self, split: Split) -> str | None:
        sources: dict[Split, str | None] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        return sources[split]

    def _load(self, split: Split) -> Loaded:
        source = self._source(split)
        own = source is not None
        everything, repeated = self._distinct(source or self.train, graded=split != "train")
        # A hash decides what is held out, so that a split does not move when the file grows.
        held_out: tuple[Split, ...] = tuple(
            s for s in _HELD_OUT.values() if self._source(s) is None
        )
        if split == "train":
            chosen = [p for p in everything if _bucket(p) not in held_out]
            elsewhere = {
                p.text
                for other in _HELD_OUT.values()
                if (named := self._source(other)) is not None
                for p in self._distinct(named, graded=False)[0]
            }
            kept = [p for p in chosen if p.text not in elsewhere]
        else:
            chosen = everything if own else [p for p in everything if _bucket(p) == split]
            kept = chosen
        notes = [f"{repeated} repeated problems left out"] * bool(repeated)
        if overlap := len(chosen) - len(kept):
            notes.append(f"{overlap} training problems left out that stand in another split")
        if not kept:
            raise ValueError(
                f"no {split} problems are left of {source or self.train!r}; name a source for "
                f"the {split} split"
            )
        return Loaded(kept, tuple(notes))

    def _distinct(self, source: str, *, graded: bool) -> tuple[list[Prompt], int]:
        rows = read_rows(source)
        column = choose_column(
            rows, self.prompt_column, PROMPT_COLUMNS, what="prompt", source=source
        )
        # Prompts alone are enough to train on; only a split that is graded must have answers.
        choose = choose_column if graded else optional_column
        answers = choose(rows, self.answer_column, ANSWER_COLUMNS, what="answer", source=source)
        completions, domains = self._columns_to_learn_from(rows, source)
        # All turns count: two conversations may end with the same words.
        seen: dict[tuple[str, ...], Prompt] = {}
        ids: set[str] = set()
        for number, row in enumerate(rows):
            messages = turns(lookup(row, column))
            if not messages:
                raise ValueError(
                    f"row {number} of {source} holds {lookup(row, column)!r:.60} in its column "
                    f"{column!r}, which is neither text nor turns that a user takes part in; "
                    "leave that row out"
                )
            identity = str(row["id"]) if "id" in row else f"{Path(source).name}:{number}"
            answer = "" if answers is None else gold(lookup(row, answers))
            # Scores are kept by id, so two problems that a data set gives one id get two.
            identity = f"{identity}:{number}" if identity in ids else identity
            ids.add(identity)
            prompt = Prompt(
                id=identity,
                messages=messages,
                answer=answer,
                domain=_text(row, domains),
                completion="" if completions is None else said(lookup(row, completions)),
            )
            seen.setdefault(tuple(turn["content"] for turn in messages), prompt)
        return list(seen.values()), len(rows) - len(seen)

    def _columns_to_learn_from(
        self, rows: Sequence[Row], source: str
    ) -> tuple[str | None, str | None]:
        """The columns of completions and domains; None where there are none."""
        if source != self.train:
            return None, None
        named = self.completion_column, self.domain_column
        known = COMPLETION_COLUMNS, DOMAIN_COLUMNS
        completions, domains = (
            optional_column(rows, column, guesses, what=what, source=source)
            for column, guesses, what in zip(named, known, ("completion", "domain"), strict=True)
        )
        return completions, domains

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        return self.grade_many([(prompt, completion)])[0]

    def grade_many(self, items: Sequence[tuple[Prompt, str]]) -> list[Grade]:
        r"""Right when the last `\boxed{…}` equals the gold answer; without a box, no answer.

        Raises ValueError for a prompt without a gold answer.
        """
        return grade_boxed(self._pool, items)


def _text(row: Row, column: str | None) -> str:
    value = None if column is None else lookup(row, column)
    return "" if value is None else str(value)


def _bucket(prompt: Prompt) -> Split:
    digest = hashlib.sha256(prompt.text.encode()).digest()
    return _HELD_OUT.get(int.from_bytes(digest[:8], "big") % _BUCKETS, "train")
