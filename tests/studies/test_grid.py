"""A study as its cells."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.studies.study_cases import small_study

from tandem.models.loading import load_model
from tandem.models.prompts import encode_prompt
from tandem.models.settings import ModelSettings
from tandem.studies.choosing import first_settings
from tandem.studies.grid import (
    MAIN,
    Point,
    Study,
    distinct,
    models_to_make,
    overrides_of,
    reporting_cells,
    tuning_cells,
)
from tandem.studies.study_folder import begin, differences
from tandem.training.config import RunConfig, plain_data
from tandem.training.own_recipes import recipe_path
from tandem.training.recipe_file import apply_overrides
from tandem.training.requests import RequestSource


def _axis(rows: list[str], **values: dict[str, Any]) -> Any:
    return lambda data: data.update(axes={"axis": {"rows": rows, "values": values}})


def test_every_setting_tunes_on_every_tuning_seed_and_the_chosen_one_reports(
    tmp_path: Path,
) -> None:
    study = small_study(tmp_path)
    tuned = [(c.row, c.setting, c.seed) for c in tuning_cells(study)]
    assert tuned == [(r, n, s) for s in (7, 8) for r in ("opd", "trb") for n in (0, 1)]
    cells = reporting_cells(study, {"opd": 1, "trb": 0})
    assert [(c.row, c.seed) for c in cells] == [("opd", 0), ("trb", 0), ("opd", 1), ("trb", 1)]
    by_row = {c.row: c.config for c in cells if c.seed == 1}
    assert by_row["opd"].optimizer.lr == 5e-4 and by_row["opd"].behaviour.kind == "student"
    assert plain_data(by_row["trb"])["behaviour"] == {
        "kind": "trust_region_blend",
        "budget": 0.01,
        "warmup_steps": 2,
    }
    assert by_row["trb"].name == "small/reporting/main/trb/seed-1" and by_row["trb"].seed == 1


def test_rows_without_a_choice_are_not_tuned(tmp_path: Path) -> None:
    study = small_study(tmp_path, lambda data: data["rows"]["trb"].pop("sweep"))
    assert {cell.row for cell in tuning_cells(study)} == {"opd"}


def test_an_axis_goes_over_its_rows_and_over_what_was_tuned(tmp_path: Path) -> None:
    study = small_study(tmp_path, _axis(["trb"], low={"behaviour.budget": 0.001}))
    cells = reporting_cells(study, {"opd": 0, "trb": 1})
    found = {(c.point, c.row): c.config.behaviour.budget_at(_start(c.config)) for c in cells}
    low = Point("axis", "low")
    assert found == {(MAIN, "opd"): None, (MAIN, "trb"): 0.1, (low, "trb"): 0.001}


def _start(config: RunConfig) -> Any:
    return config.timeline().stretches[0].first_clock


def test_a_cell_that_repeats_another_is_run_once(tmp_path: Path) -> None:
    study = small_study(tmp_path, _axis(["trb"], same={"behaviour.budget": 0.1}))
    cells = reporting_cells(study, {"opd": 0, "trb": 1})
    folders = distinct(cells)
    assert len(folders) == 6 and len(set(folders.values())) == 4
    again = "small/reporting/axis-same/trb/seed-0"
    assert folders[again] == "small/reporting/main/trb/seed-0"


def _asked(config: RunConfig, student: Any) -> list[list[tuple[int, tuple[int, ...]]]]:
    """Ids and prompts of every request of a run, roll-out by roll-out."""
    encode = partial(encode_prompt, student)
    line = config.timeline()
    source = RequestSource(
        config.task.prompts("train"),
        encode_student=encode,
        encode_teachers={"teacher": encode},
        settings=config.rollout,
        seed=config.seed,
        rollouts=line.rollouts,
        prompts_of=line.prompts_of,
    )

    class Alone:
        rank, size = 0, 1

    asked: list[list[tuple[int, tuple[int, ...]]]] = []
    for rollout in range(line.rollouts):
        requests = source(rollout, Alone())  # pyright: ignore[reportArgumentType]
        asked.append([(r.id, r.student_ids) for r in requests])
    return asked


def test_all_rows_of_a_seed_ask_the_same_prompts_with_the_same_draws(tmp_path: Path) -> None:
    study = small_study(tmp_path, _axis(["trb"], low={"behaviour.budget": 0.001}))
    student = load_model(ModelSettings(path="embedded:student"))
    by_seed: dict[int, list[Any]] = {}
    for cell in reporting_cells(study, first_settings(study.file)):
        by_seed.setdefault(cell.seed, []).append(_asked(cell.config, student))
    assert all(asked == runs[0] for runs in by_seed.values() for asked in runs)
    assert by_seed[0][0] != by_seed[1][0]
    assert [len(asked) for asked in by_seed[0][0]] == [4] * 4


@pytest.mark.parametrize(
    ("fragment", "place"),
    [
        ({"rollout.prompts_per_step": 8}, "rollout.prompts_per_step"),
        ({"rollout.samples_per_prompt": 2}, "rollout.samples_per_prompt"),
        ({"task.seed": 1}, "task.seed"),
        ({"task": {"kind": "arithmetic", "digits": 3}}, "task.digits"),
        ({"student.path": "embedded:teacher"}, "student.path"),
        ({"evaluation.problems": 5}, "evaluation.problems"),
    ],
)
def test_rows_that_would_see_other_prompts_are_refused(
    fragment: dict[str, Any], place: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"row 'trb' has {place} .* rows of one table see the sa"):
        small_study(tmp_path, lambda data: data["rows"]["trb"]["set"].update(fragment))
    with pytest.raises(ValueError, match=f"row 'trb' has {place} "):
        small_study(tmp_path, lambda data: data["rows"]["trb"].update(sweep=[{}, fragment]))
    # For the whole study, and on an axis for both rows, it may be anything.
    small_study(tmp_path, lambda data: data["set"].update(fragment))
    small_study(tmp_path, _axis(["opd", "trb"], other=fragment))
    with pytest.raises(ValueError, match=f"row 'trb' has {place} "):
        small_study(tmp_path, _axis(["trb"], other=fragment))


@pytest.mark.parametrize("evaluation", [None, {"every": 2, "problems": 4, "split": "test"}])
def test_selection_is_on_validation_problems_and_on_nothing_else(
    evaluation: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="a study selects on validation problems and touches the"):
        small_study(tmp_path, lambda data: data["set"].update(evaluation=evaluation))


def test_mistakes_in_a_row_name_the_row(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^row 'trb': unknown key 'behaviour.bugdet' in overri"):
        small_study(
            tmp_path, lambda data: data["rows"]["trb"]["set"].update({"behaviour.bugdet": 1})
        )
    with pytest.raises(ValueError, match=r"row 'opd' at axis v: training.steps is 0 in override"):
        small_study(tmp_path, _axis(["opd"], v={"training.steps": 0}))


def test_models_that_the_study_makes_are_named_by_their_folder(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["models"] = {"weaker": {"recipe": "arithmetic_base", "set": {"steps": 3}}}
        _axis(["opd", "trb"], weak={"student": {"path": "made:weaker"}})(data)

    study = small_study(tmp_path, change)
    assert models_to_make(study)["weaker"].steps == 3
    weak = [c for c in reporting_cells(study, first_settings(study.file)) if c.point != MAIN]
    assert {c.config.student.path for c in weak} == {str(study.folder / "models" / "weaker")}
    with pytest.raises(
        ValueError, match=r"'made:waeker' is no model .* did you mean 'made:weaker'"
    ):
        small_study(
            tmp_path,
            lambda data: (change(data), _axis(["opd"], v={"student.path": "made:waeker"})(data)),
        )


def test_a_model_may_be_made_from_those_before_it(tmp_path: Path) -> None:
    def change(*names: str) -> Any:
        made = {
            "teacher": {"recipe": "arithmetic_base", "set": {"prune.keep": [0, 1, 2, 3]}},
            "student": {"recipe": "arithmetic_base", "set": {"prune.path": "made:teacher"}},
        }
        return lambda data: data.update(models={name: made[name] for name in names})

    study = small_study(tmp_path, change("teacher", "student"))
    prune = models_to_make(study)["student"].prune
    assert prune is not None and prune.path == str(study.folder / "models" / "teacher")
    with pytest.raises(ValueError, match="model 'student': 'made:teacher' is no model that the st"):
        small_study(tmp_path, change("student", "teacher"))


@pytest.mark.parametrize(
    "value", [1, 1e-5, 0.1, True, None, "no", "text: with # marks", "é", [1, "a"], {}, {"a.b": 1}]
)
def test_a_fragment_says_the_same_as_the_overrides_that_it_becomes(value: Any) -> None:
    found = apply_overrides({"x": {"kept": 1}}, overrides_of({"x": {"y": value}}))
    expected = {"a": {"b": 1}} if value == {"a.b": 1} else value
    assert found == {"x": {"kept": 1, "y": expected}}


def _changed(study: Study, tmp_path: Path, change: Any) -> list[str]:
    return differences(study.declared(), small_study(tmp_path, change).declared())


def test_what_a_begun_study_declared_cannot_change(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    begin(study)
    begin(small_study(tmp_path))  # the same again is no change
    changed = lambda data: data["rows"]["trb"]["sweep"].update({"behaviour.budget": [0.01, 0.2]})  # noqa: E731
    said = r"small was begun by another declaration: rows.trb.sweep.behaviour.budget was \[0.01, 0."
    with pytest.raises(ValueError, match=said):
        begin(small_study(tmp_path, changed))
    assert _changed(study, tmp_path, lambda data: data["seeds"].update(reporting=[0, 1, 2])) == [
        "seeds.reporting was [0, 1] and is [0, 1, 2]"
    ]
    assert _changed(study, tmp_path, lambda data: data["hypotheses"][0].update(text="x")) != []
    assert _changed(study, tmp_path, lambda data: data.update(time_limit=3)) == [
        "time_limit is new"
    ]


def test_a_recipe_that_changed_under_a_begun_study_is_noticed(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    text = recipe_path("arithmetic").read_text()
    base.write_text(text)
    use = lambda data: data.update(base=str(base))  # noqa: E731
    begin(small_study(tmp_path, use))
    base.write_text(text.replace("schedule: cosine", "schedule: linear"))
    said = "recipes.opd.optimizer.schedule was 'cosine' and is 'linear'"
    with pytest.raises(ValueError, match=said):
        begin(small_study(tmp_path, use))


def test_a_folder_that_is_no_study_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "runs" / "small" / "mine.txt"
    other.parent.mkdir(parents=True)
    other.write_text("")
    with pytest.raises(ValueError, match="small already holds something that is no study; give th"):
        begin(small_study(tmp_path))
