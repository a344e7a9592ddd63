"""STUDY.yaml: what a study compares and how, declared before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from tandem.settings import Settings
from tandem.training.components import build
from tandem.training.recipe_file import Recipe, read_recipe

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

Fragment = dict[str, Any]
"""A part of a recipe that goes over another: nested groups, dotted keys, or both."""


def _settings_of(value: object) -> object:
    """A sweep given as lists per key is their product, the last key changing fastest."""
    if not isinstance(value, Mapping):
        return value
    for key, values in value.items():
        if not isinstance(values, list) or not values:
            raise ValueError(
                f"the values of {key} are {values!r}, but they should be a list such as [1, 2]"
            )
    return [dict(zip(value, chosen, strict=True)) for chosen in product(*value.values())]


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if min(seeds, default=0) < 0 or max(seeds, default=0) >= 2**31:
        raise ValueError(f"the seeds are {list(seeds)}: give numbers from 0 to 2,147,483,647")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"the seeds are {list(seeds)}, and one of them stands there twice")
    return seeds


SeedList = Annotated[tuple[int, ...], AfterValidator(_distinct)]


class RowSettings(Settings):
    """One row of the table: a method.

    recipe: what it starts from instead of the study's `base`. set: goes over that. sweep: the
    settings that tuning chooses from, each going over `set`: a list of them, or lists of values
    per key, whose product is meant.
    """

    title: str = ""
    recipe: str | None = None
    set: Fragment = Field(default_factory=dict)
    sweep: Annotated[tuple[Fragment, ...], BeforeValidator(_settings_of)] = ({},)

    @field_validator("sweep")
    @classmethod
    def _settings_differ(cls, sweep: tuple[Fragment, ...]) -> tuple[Fragment, ...]:
        if not sweep:
            raise ValueError("the sweep has no settings: leave it out for a row without a choice")
        for i, setting in enumerate(sweep):
            if setting in sweep[:i]:
                raise ValueError(f"the sweep holds {setting} twice")
        return sweep


class AxisSettings(Settings):
    """Something besides the method that is varied, one axis at a time from the main table.

    main: what the main table has on this axis, in words. rows: which rows it is varied for; the
    others are shown beside them as they are in the main table. values: what goes over those rows.
    """

    title: str = ""
    main: str = ""
    rows: tuple[str, ...] = Field(min_length=1)
    values: dict[str, Fragment] = Field(min_length=1)


class HypothesisSettings(Settings):
    """What the study expects: `row` is better than `than` in pass@1 on the test split.

    model: the final one, or the one that was best on validation problems.
    """

    text: str
    row: str
    than: str
    model: Literal["final", "selected"] = "final"


class ModelToMake(Settings):
    """A small model that `tandem pretrain` makes before the runs; cells name it `made:<name>`."""

    recipe: str
    set: Fragment = Field(default_factory=dict)


class SeedSettings(Settings):
    """tuning: choose each row's setting. reporting: fresh ones, which the tables are made of."""

    tuning: SeedList = ()
    reporting: Annotated[SeedList, Field(min_length=1)]

    @model_validator(mode="after")
    def _no_seed_both_tunes_and_reports(self) -> SeedSettings:
        both = sorted(set(self.tuning) & set(self.reporting))
        if both:
            raise ValueError(
                f"seed {both[0]} both tunes and reports; report on seeds that chose nothing"
            )
        return self


class JudgingSettings(Settings):
    """How the final and the selected model of each reporting run are judged, once.

    problems: of the task's test split, from its first. max_new_tokens: None takes the rollout's.
    """

    problems: int = Field(gt=0)
    samples: int = Field(default=1, gt=0)
    max_new_tokens: int | None = Field(default=None, gt=0)
    temperature: float = Field(default=1.0, ge=0)


class StudyFile(Settings):
    """A whole study.

    base: the recipe that all rows start from; set: goes over it. baseline: the row that the
    others are compared with. models: made before anything else. time_limit: seconds that a cell is
    meant to take; said in the plan, and nothing stops a longer one.
    """

    name: str
    base: str
    set: Fragment = Field(default_factory=dict)
    hypotheses: tuple[HypothesisSettings, ...] = Field(min_length=1)
    rows: dict[str, RowSettings] = Field(min_length=2)
    baseline: str
    axes: dict[str, AxisSettings] = Field(default_factory=dict)
    models: dict[str, ModelToMake] = Field(default_factory=dict)
    seeds: SeedSettings
    judging: JudgingSettings
    time_limit: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _names_what_there_is(self) -> StudyFile:
        labels = [self.name, *self.rows, *self.axes, *self.models]
        labels += [value for axis in self.axes.values() for value in axis.values]
        for label in labels:
            if not _LABEL.fullmatch(label):
                raise ValueError(
                    f"{label!r} names a folder: use letters, digits, - _ and . (and say more in "
                    "its title)"
                )
        titles = [self.title(row) for row in self.rows]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(
                    f"two rows are called {title!r} in tables: give each its own title"
                )
        places = [f"{axis}-{value}" for axis, own in self.axes.items() for value in own.values]
        for place in places:
            if places.count(place) > 1:
                raise ValueError(f"two values of axes would share the folder {place}: rename one")
        self._check_row(self.baseline, "baseline")
        for i, one in enumerate(self.hypotheses):
            self._check_row(one.row, f"hypotheses.{i}.row")
            self._check_row(one.than, f"hypotheses.{i}.than")
            if one.row == one.than:
                raise ValueError(f"hypotheses.{i} compares {one.row!r} with itself")
        for name, axis in self.axes.items():
            for row in axis.rows:
                self._check_row(row, f"axes.{name}.rows")
        return self

    @model_validator(mode="after")
    def _sweeps_have_seeds(self) -> StudyFile:
        swept = [name for name, row in self.rows.items() if len(row.sweep) > 1]
        if swept and not self.seeds.tuning:
            raise ValueError(
                f"row {swept[0]!r} has settings to choose from, but there are no seeds to choose "
                "on: add seeds.tuning"
            )
        return self

    def _check_row(self, name: str, place: str) -> None:
        if name not in self.rows:
            near = get_close_matches(name, self.rows, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.rows)}"
            raise ValueError(f"{place} is {name!r}, which is no row; {hint}")

    def title(self, row: str) -> str:
        """What tables call a row."""
        return self.rows[row].title or row

    def tuning_runs(self, row: str) -> int:
        """Runs that choose this row's setting; none where there is nothing to choose."""
        settings = len(self.rows[row].sweep)
        return settings * len(self.seeds.tuning) if settings > 1 else 0


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> tuple[StudyFile, Recipe]:
    """The study of a file after `section.key=value` overrides, and the plain data it was.

    Raises ValueError with one sentence about the first mistake, as recipes do.
    """
    recipe = read_recipe(path, overrides)
    return build(StudyFile, recipe.data, place="", source=recipe.source), recipe
