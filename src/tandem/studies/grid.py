"""A study file as its cells: one run each, every one of them a whole recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml

from tandem.studies.study_file import Fragment, StudyFile, load_study
from tandem.training.components import build
from tandem.training.config import RunConfig, plain_data
from tandem.training.pretrain import PretrainSettings
from tandem.training.recipe_file import Recipe, override, read_recipe

MADE = "made:"
# Rows are compared on the same prompts, answered by the same pair, watched in the same way.
SHARED = ("seed", "student", "teacher", "teachers", "task", "evaluation")
SHARED_ROLLOUT = (
    "prompts_per_step",
    "samples_per_prompt",
    "max_prompt_tokens",
    "max_new_tokens",
)

Phase = Literal["tuning", "reporting"]


@dataclass(frozen=True, slots=True)
class Point:
    """Where in the study a run stands: the main table, or one value of one axis."""

    axis: str = ""
    value: str = ""

    @property
    def slug(self) -> str:
        """Its folder's name."""
        return f"{self.axis}-{self.value}" if self.axis else "main"


MAIN = Point()


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a study. setting: which of its row's sweep. config.name: its folder in runs/."""

    phase: Phase
    point: Point
    row: str
    setting: int
    seed: int
    config: RunConfig


@dataclass(frozen=True, slots=True)
class Study:
    """A study file with the recipes that it names, read once.

    folder: runs/<name>. recipes: row to the recipe that it starts from.
    """

    file: StudyFile
    runs: Path
    recipes: Mapping[str, Recipe]
    model_recipes: Mapping[str, Recipe]
    data: Mapping[str, Any] = field(repr=False)

    @property
    def folder(self) -> Path:
        return self.runs / self.file.name

    def declared(self) -> dict[str, Any]:
        """All that decides what is run, as plain data: what a begun study has to keep to."""
        by_row = {row: recipe.data for row, recipe in self.recipes.items()}
        base = by_row[self.file.baseline]
        return {
            "study": dict(self.data),
            "recipes": {row: data for row, data in by_row.items() if data != base}
            | {self.file.baseline: base},
            "models": {name: recipe.data for name, recipe in self.model_recipes.items()},
        }


def open_study(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    find: Callable[[str], Path],
    runs: str | Path = "runs",
) -> Study:
    """Read a study and the recipes that it names. find: a recipe's file by its name.

    Raises ValueError, in one sentence, for a mistake in any of them, and where rows of one table
    would not be comparable.
    """
    file, own = load_study(path, overrides)
    names = {row: settings.recipe or file.base for row, settings in file.rows.items()}
    recipes = {name: read_recipe(find(name)) for name in dict.fromkeys(names.values())}
    study = Study(
        file=file,
        runs=Path(runs),
        recipes={row: recipes[name] for row, name in names.items()},
        model_recipes={
            name: read_recipe(find(model.recipe)) for name, model in file.models.items()
        },
        data=own.data,
    )
    _check(study)
    return study


def tuning_cells(study: Study) -> list[Cell]:
    """The runs that choose each row's setting, seed by seed; none for rows without a choice."""
    asked = [
        (MAIN, row, setting)
        for row, settings in study.file.rows.items()
        if len(settings.sweep) > 1
        for setting in range(len(settings.sweep))
    ]
    return _cells(study, "tuning", asked, study.file.seeds.tuning)


def reporting_cells(study: Study, chosen: Mapping[str, int]) -> list[Cell]:
    """The runs that the tables are made of, seed by seed, with the settings that were chosen."""
    asked = [
        (point, row, chosen[row])
        for point in points(study.file)
        for row in varied_rows(study.file, point)
    ]
    return _cells(study, "reporting", asked, study.file.seeds.reporting)


def points(file: StudyFile) -> list[Point]:
    """The main table, then every value of every axis."""
    return [MAIN, *(Point(name, v) for name, axis in file.axes.items() for v in axis.values)]


def varied_rows(file: StudyFile, point: Point) -> list[str]:
    """The rows that are run at a point; the others stand there as in the main table."""
    return list(file.axes[point.axis].rows if point.axis else file.rows)


def distinct(cells: Sequence[Cell]) -> dict[str, str]:
    """Each cell's folder to the folder of the first cell that is the very same run."""
    first: dict[str, str] = {}
    folders: dict[str, str] = {}
    for cell in cells:
        run = plain_data(cell.config)
        name = run.pop("name")
        folders[name] = first.setdefault(json.dumps(run, sort_keys=True), name)
    return folders


def overrides_of(fragment: Mapping[str, Any], within: str = "") -> list[str]:
    """`section.key=value` for every value of nested groups: groups are merged, not replaced."""
    found: list[str] = []
    for key, value in fragment.items():
        if isinstance(value, Mapping) and value:
            found += overrides_of(value, f"{within}{key}.")
        else:
            # In brackets, because a scalar alone would be dumped as a document with its end mark.
            text = yaml.safe_dump([value], default_flow_style=True, width=2**30, allow_unicode=True)
            found.append(f"{within}{key}={text.strip()[1:-1]}")
    return found


def model_folder(study: Study, name: str) -> Path:
    """Where a model that the study makes lies."""
    return study.folder / "models" / name


def models_to_make(study: Study) -> dict[str, PretrainSettings]:
    """How each model is made, in order: one may be made from those before it.

    Raises ValueError, naming the model, for a mistake in any of them.
    """
    found: dict[str, PretrainSettings] = {}
    for name, model in study.file.models.items():
        try:
            own = _with_models(study, model.set, known=list(found))
            recipe = override(study.model_recipes[name], [*overrides_of(own), f"name={name}"])
            found[name] = build(PretrainSettings, recipe.data, place="", source=recipe.source)
        except ValueError as error:
            raise ValueError(f"model {name!r}: {error}") from None
    return found


def _cells(
    study: Study, phase: Phase, asked: Sequence[tuple[Point, str, int]], seeds: Sequence[int]
) -> list[Cell]:
    """A cell per seed of each (point, row, setting), seed by seed."""
    configs = [_config(study, *one) for one in asked]
    cells: list[Cell] = []
    for seed in seeds:
        for (point, row, setting), config in zip(asked, configs, strict=True):
            # Seeds come first, so that a study that is stopped early has whole pairs.
            places = (row, f"setting-{setting}") if phase == "tuning" else (point.slug, row)
            name = "/".join((study.file.name, phase, *places, f"seed-{seed}"))
            own = config.model_copy(update={"name": name, "seed": seed})
            cells.append(Cell(phase, point, row, setting, seed, own))
    return cells


def _config(study: Study, point: Point, row: str, setting: int) -> RunConfig:
    """The run of a row at a point, but for its name and seed. Raises ValueError, naming the row."""
    file, settings = study.file, study.file.rows[row]
    layers: list[Fragment] = [file.set, settings.set, settings.sweep[setting]]
    if point.axis and row in file.axes[point.axis].rows:
        # Last, so that an axis over what was tuned goes before the tuned value.
        layers.append(file.axes[point.axis].values[point.value])
    try:
        recipe = study.recipes[row]
        for layer in layers:
            made = _with_models(study, layer, known=list(file.models))
            recipe = override(recipe, overrides_of(made))
        return build(RunConfig, recipe.data, place="", source=recipe.source)
    except ValueError as error:
        at = f" at {point.axis} {point.value}" if point.axis else ""
        raise ValueError(f"row {row!r}{at}: {error}") from None


def _with_models(study: Study, value: Any, *, known: Sequence[str]) -> Any:
    """`value` with each `made:<name>` in it replaced by that model's folder."""
    if isinstance(value, Mapping):
        return {key: _with_models(study, inner, known=known) for key, inner in value.items()}
    if not (isinstance(value, str) and value.startswith(MADE)):
        return value
    name = value.removeprefix(MADE)
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.0)
        hint = f"did you mean {MADE + near[0]!r}?" if near else "none is made before it"
        raise ValueError(f"{value!r} is no model that the study makes; {hint}")
    return str(model_folder(study, name))


def _check(study: Study) -> None:
    """Raise ValueError unless every cell is a run, and rows of one table differ in method alone."""
    file = study.file
    models_to_make(study)
    for point in points(file):
        # Where the axis leaves the baseline alone, this is its run of the main table.
        base = _config(study, point, file.baseline, 0)
        _check_selection(base)
        for row in varied_rows(file, point):
            for setting in range(len(file.rows[row].sweep)):
                _check_comparable(row, _config(study, point, row, setting), file.baseline, base)


def _check_selection(config: RunConfig) -> None:
    evaluation = config.evaluation
    if evaluation is None or evaluation.split != "validation":
        raise ValueError(
            f"evaluation.split is {evaluation and evaluation.split!r}, but a study selects on "
            "validation problems and touches the test split once: set evaluation.split=validation"
        )


def _check_comparable(row: str, run: RunConfig, base_row: str, base: RunConfig) -> None:
    one, other = dict(_shared(run)), dict(_shared(base))
    for place in sorted(one.keys() | other.keys()):
        if one.get(place) != other.get(place):
            raise ValueError(
                f"row {row!r} has {place} {one.get(place)!r} and row {base_row!r} "
                f"{other.get(place)!r}: rows of one table see the same prompts of the same pair; "
                "set it for the whole study, or vary it on an axis for both"
            )


def _shared(config: RunConfig) -> Iterator[tuple[str, Any]]:
    data = plain_data(config)
    for section in SHARED:
        yield from _leaves(data[section], section)
    for key in SHARED_ROLLOUT:
        yield f"rollout.{key}", data["rollout"][key]


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}")
    else:
        yield place, value
