"""Every study in studies/ is one that can be run: read and expanded here, not run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tandem.front.study_plan import plan_lines
from tandem.front.studying import own_studies
from tandem.studies.choosing import first_settings, sweep_notes
from tandem.studies.grid import (
    MAIN,
    Study,
    models_to_make,
    open_study,
    points,
    reporting_cells,
    tuning_cells,
)
from tandem.training.config import plain_data
from tandem.training.own_recipes import recipe_path

EMBEDDED = ("trb_table", "tropd_ablation")
# Asked after their results were seen.
FOLLOW_UPS = ("trb_same_rate", "tropd_short_guidance", "tropd_constant_rate")
TRB_ROWS = {"opd", "sft_warmup", "fixed_budget", "veto", "skd", "temperature", "trb"}
# Seconds of a cell that let a study end within two hours on two cores.
TWO_HOURS = 2 * 3600 * 2


@cache
def study(name: str) -> Study:
    return open_study(own_studies()[name], find=recipe_path, runs="runs")


def test_each_study_is_there_embedded_and_in_full() -> None:
    full = {f"{name}_full" for name in EMBEDDED}
    assert set(own_studies()) == {*EMBEDDED, *full, *FOLLOW_UPS}
    for name in EMBEDDED:
        small, full = study(name).file, study(f"{name}_full").file
        assert list(small.rows) == list(full.rows)
        assert [small.title(row) for row in small.rows] == [full.title(row) for row in full.rows]
        assert [(h.row, h.than, h.model) for h in small.hypotheses] == [
            (h.row, h.than, h.model) for h in full.hypotheses
        ]


@pytest.mark.parametrize("name", [*EMBEDDED, *(f"{name}_full" for name in EMBEDDED)])
def test_a_study_expands_to_runs_of_its_rows_methods(name: str) -> None:
    found = study(name)
    cells = [*tuning_cells(found), *reporting_cells(found, first_settings(found.file))]
    assert len({cell.config.name for cell in cells}) == len(cells)
    main = {
        c.row: plain_data(c.config) for c in cells if c.phase == "reporting" and c.point == MAIN
    }
    methods = [
        (str(run["behaviour"]), str(run["objective"]), str(run["phases"])) for run in main.values()
    ]
    assert len(set(methods)) == len(found.file.rows), "two rows are the same method"
    assert plan_lines(found, jobs=2)
    if name.startswith("trb_table"):
        assert set(found.file.rows) == TRB_ROWS
    # The paper's rows of both forms have the same kinds.
    kinds = {row: (run["behaviour"]["kind"], run["objective"]["kind"]) for row, run in main.items()}
    full = study(f"{name.removesuffix('_full')}_full")
    for cell in reporting_cells(full, first_settings(full.file)):
        run = plain_data(cell.config)
        expected = (run["behaviour"]["kind"], run["objective"]["kind"])
        if cell.row != "opd_guided":
            assert kinds[cell.row] == expected


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_study_keeps_to_what_was_asked_of_it(name: str) -> None:
    found = study(name)
    file = found.file
    assert len(file.seeds.reporting) >= 10 and len(file.seeds.tuning) == 2
    assert file.time_limit is not None and file.time_limit <= 40
    cells = [*tuning_cells(found), *reporting_cells(found, first_settings(file))]
    assert len(cells) * 40 <= TWO_HOURS
    assert {cell.config.threads for cell in cells} == {1}
    assert {cell.config.device for cell in cells} == {"cpu"}
    # A number, so that two runs agree to the last bit.
    assert all(isinstance(cell.config.rollout.block, int) for cell in cells)
    # Every row was tuned with as many runs.
    (note,) = sweep_notes(file)
    assert note.startswith("Tuning: ")
    axes = {"student", "chains"} | ({"budget"} if name == "trb_table" else set())
    assert set(file.axes) == axes and len(points(file)) > len(axes)
    assert {"weaker", "stronger"} <= set(models_to_make(found))


def test_the_follow_up_differs_from_the_table_in_the_rate_alone() -> None:
    main, after = study("trb_table"), study("trb_same_rate")
    assert after.file.set == main.file.set | {"optimizer.lr": 1e-3}
    assert (after.file.judging, after.file.seeds.reporting) == (
        main.file.judging,
        main.file.seeds.reporting,
    )
    # What tuning chose there: docs/results/trb-table/README.md.
    chosen = {"opd": 3, "temperature": 0, "trb": 0}
    cells = {
        cell.row: plain_data(cell.config)
        for cell in reporting_cells(main, dict.fromkeys(main.file.rows, 0) | chosen)
        if cell.point == MAIN and cell.row in chosen
    }
    for cell in reporting_cells(after, first_settings(after.file)):
        run, before = plain_data(cell.config), cells[cell.row]
        for one in (run, before):
            one["name"] = one["seed"] = one["optimizer"]["lr"] = None
        assert run == before


@pytest.mark.parametrize("name", FOLLOW_UPS[1:])
def test_a_follow_up_on_guidance_differs_in_one_thing(name: str) -> None:
    main, after = study("tropd_ablation"), study(name)
    constant = name == "tropd_constant_rate"
    schedule = {"optimizer.schedule": "constant"} if constant else {}
    assert (after.file.set, after.file.judging, after.file.seeds) == (
        main.file.set | schedule,
        main.file.judging,
        main.file.seeds,
    )
    before = {(c.row, c.setting, c.seed): plain_data(c.config) for c in tuning_cells(main)}
    cells = tuning_cells(after)
    assert len(cells) == 3 * 4 * 2
    for cell in cells:
        run, other = plain_data(cell.config), before[cell.row, cell.setting, cell.seed]
        changes = [run["optimizer"].pop("schedule"), other["optimizer"].pop("schedule")]
        assert changes == ["constant" if constant else "cosine", "cosine"]
        if cell.row == "forward_kl_guided":
            changes = [run["behaviour"].pop("horizon"), other["behaviour"].pop("horizon")]
            assert changes == [None if constant else 15, None]
        run["name"] = other["name"] = None
        assert run == other


def test_a_full_study_takes_the_published_recipes_as_they_are() -> None:
    found = study("trb_table_full")
    for cell in reporting_cells(found, first_settings(found.file)):
        name = found.file.rows[cell.row].recipe
        assert name is not None and Path(recipe_path(name)).is_file()
        rollout = cell.config.rollout
        assert (rollout.prompts_per_step, rollout.samples_per_prompt) == (64, 4)
        assert cell.config.student.path == "Qwen/Qwen3-0.6B-Base"
