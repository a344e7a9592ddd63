"""Comparing run folders and study folders, written by hand."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.studies.conftest import CONFIG
from tests.studies.study_cases import small_study
from tests.studies.test_tables import record
from typer.testing import CliRunner

from tandem.cli import app
from tandem.evaluation.record import write_record
from tandem.front.study_plan import plan_lines
from tandem.front.studying import write_results
from tandem.studies.choosing import choose, settings_so_far, sweep_notes, write_choices
from tandem.studies.compare import tables_of
from tandem.studies.grid import Study, reporting_cells, tuning_cells
from tandem.studies.study_folder import (
    CellEnd,
    begin,
    last_validation,
    read_study,
    write_cell_end,
    write_plan,
)
from tandem.studies.tables import as_csv


def run(folder: Path, *, seed: int = 0, lr: float = 0.1, **evaluations: Any) -> Path:
    folder.mkdir(parents=True)
    config = CONFIG | {"name": str(folder), "seed": seed, "optimizer": {"lr": lr}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name, share in evaluations.items():
        kept = share if not isinstance(share, float) else record(share)
        write_record(folder, name.replace("_", "-"), kept)
    return folder


def test_runs_that_differ_in_seed_alone_are_one_row(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / f"{name}-seed-{seed}", seed=seed, lr=lr, test_final=base + 0.05 * seed**2)
        for name, lr, base in (("slow", 0.1, 0.3), ("fast", 0.2, 0.5))
        for seed in (0, 1, 2)
    ]
    # The same seeds differ by the same: let one not.
    write_record(runs[5], "test-final", record(0.9))
    (found,) = tables_of(runs)
    assert found.title == "test, final" and found.baseline == "slow"
    assert [(line.label, line.runs) for line in found.lines] == [("slow", 3), ("fast", 3)]
    against = found.lines[1].against
    assert against is not None and (against.unit, against.units) == ("seeds", 3)
    assert against.difference.mean == pytest.approx((0.2 + 0.2 + 0.4) / 3)
    (turned,) = tables_of(runs, baseline=str(runs[4]))
    assert turned.baseline == "fast" and turned.lines[0].against is not None
    assert turned.lines[0].against.difference.mean == pytest.approx(-0.8 / 3)


def test_evaluations_that_all_runs_have_make_a_table_each(tmp_path: Path) -> None:
    one = run(tmp_path / "a", test_final=0.4, test_best=0.6, step_000004=0.1)
    two = run(tmp_path / "b", lr=0.2, test_final=0.5, test_best=0.7, gsm8k_final=0.5)
    titles = {t.title: [line.score.mean for line in t.lines] for t in tables_of([one, two])}
    assert titles == {
        "test, best": [pytest.approx(0.6), pytest.approx(0.7)],
        "test, final": [pytest.approx(0.4), pytest.approx(0.5)],
    }


def test_without_a_judgement_the_last_watched_step_counts(tmp_path: Path) -> None:
    watched: dict[str, Any] = {"step_000002": record(0.1, split="validation")}
    one = run(tmp_path / "a", **watched, step_000004=record(0.4, split="validation"))
    two = run(tmp_path / "b", lr=0.2, **watched, step_000004=record(0.5, split="validation"))
    (found,) = tables_of([one, two])
    assert found.title == "as watched, after the last step"
    assert [line.score.mean for line in found.lines] == [pytest.approx(0.4), pytest.approx(0.5)]
    assert "20 validation problems" in found.notes[0]
    other = run(tmp_path / "c", lr=0.3, **watched)
    with pytest.raises(ValueError, match="share no evaluation, and the last ones"):
        tables_of([one, other])


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    one = run(tmp_path / "a-0", test_final=0.4)
    same = run(tmp_path / "same", test_final=0.4)
    seed = run(tmp_path / "a-1", seed=1, test_final=0.4)
    empty, other = run(tmp_path / "empty", lr=0.2), run(tmp_path / "other", lr=0.3, test_final=0.4)
    for runs, baseline, said in (
        ([one, same], None, "same are the same recipe on the same seed|a-0 are the same recipe on"),
        ([one, seed], None, "are one method on 2 seeds: name runs of another one too"),
        ([one, empty], None, "empty holds no evaluation by problem: train it with an "),
        ([one, other], "x", "the baseline x is none of the runs; name one of"),
        ([one, tmp_path / "nowhere"], None, "nowhere is not a run folder: there is no such folder"),
        ([one, seed, other], None, "paired by seed, and these share"),
    ):
        with pytest.raises(ValueError, match=said):
            tables_of(runs, baseline=baseline)


def test_the_command_writes_what_it_prints(tmp_path: Path) -> None:
    one = run(tmp_path / "a", test_final=0.4)
    two = run(tmp_path / "b", lr=0.2, test_final=0.9)
    output = tmp_path / "out"
    arguments = ["compare", str(one), str(two), "--output", str(output), "--baseline", str(two)]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    rows = list(csv.DictReader(io.StringIO((output / "comparison.csv").read_text())))
    assert [row["row"] for row in rows] == ["a", "b"] and rows[0]["difference"] == "-50.0"
    for text in (found.stdout, *(p.read_text() for p in output.iterdir() if p.suffix != ".csv")):
        assert f"-50.0 [{rows[0]['difference_low']}, {rows[0]['difference_high']}]" in text
    assert (output / "comparison.html").read_text().startswith("<!doctype html>")
    wrong = CliRunner().invoke(app, ["compare", str(one)])
    assert wrong.exit_code == 2 and wrong.stderr.startswith("tandem: ")


# A study whose cells are written by hand.

TUNED = {("opd", 0): (0.2, 0.4), ("opd", 1): (0.35, 0.35), ("trb", 0): (0.5, 0.5),
         ("trb", 1): (0.5, 0.5)}  # fmt: skip


def _axis(data: dict[str, Any]) -> None:
    values = {"low": {"behaviour.budget": 0.001}, "tuned": {"behaviour.budget": 0.01}}
    data["axes"] = {"budget": {"title": "ε₀", "rows": ["trb"], "values": values}}


def written(
    folder: Path,
    *,
    diverged: tuple[str, int] | None = None,
    change: Callable[[dict[str, Any]], None] | None = None,
) -> Study:
    """SMALL with an axis, and changed, all of its cells done."""

    def changed(data: dict[str, Any]) -> None:
        _axis(data)
        if change is not None:
            change(data)

    study = small_study(folder, changed)
    begin(study)
    tuning = tuning_cells(study)
    for cell in tuning:
        run_folder = study.runs / cell.config.name
        share = TUNED[cell.row, cell.setting][cell.seed - 7]
        write_record(run_folder, "step-000002", record(0.99, split="validation"))
        write_record(run_folder, "step-000004", record(share, split="validation"))
        write_cell_end(run_folder, CellEnd(seconds=2.0, whole=True))

    def score(row: str, setting: int, seed: int) -> float:
        cell = next(c for c in tuning if (c.row, c.setting, c.seed) == (row, setting, seed))
        found = last_validation(study.runs / cell.config.name)
        assert found is not None
        return found.metrics["eval/pass@1"]

    choices = choose(study.file, score)
    write_choices(study.folder, choices)
    cells = reporting_cells(study, {row: choice.chosen for row, choice in choices.items()})
    write_plan(study, [*tuning, *cells])
    shares = {"opd": 0.5, "trb": 0.7}
    for cell in cells:
        run_folder = study.runs / cell.config.name
        if cell.point.value == "tuned":
            continue  # it repeats the main table's
        end = CellEnd(seconds=4.0, whole=True)
        if diverged == (cell.row, cell.seed):
            end = CellEnd(seconds=1.0, whole=True, diverged="the loss is nan")
        else:
            share = shares[cell.row] + 0.05 * cell.seed * (cell.row == "trb")
            share -= 0.3 * bool(cell.point.axis)
            write_record(run_folder, "test-final", record(share))
            write_record(run_folder, "test-best", record(share + 0.05))
        write_cell_end(run_folder, end)
    return study


def test_tuning_takes_the_best_mean_on_validation_problems_and_the_first_of_equal_ones(
    tmp_path: Path,
) -> None:
    study = written(tmp_path)
    chosen = json.loads((study.folder / "chosen.json").read_text())
    assert chosen["opd"]["chosen"] == 1 and chosen["trb"]["chosen"] == 0
    assert chosen["opd"]["tried"][0]["scores"] == {"7": 0.2, "8": 0.4}
    assert chosen["opd"]["tried"][0]["mean"] == pytest.approx(0.3)
    assert chosen["opd"]["tried"][1]["setting"] == {"optimizer.lr": 5e-4}
    assert settings_so_far(study.file, study.folder) == {"opd": 1, "trb": 0}
    assert settings_so_far(study.file, tmp_path / "new") == {"opd": 0, "trb": 0}


def test_the_plan_of_a_finished_study_counts_what_tuning_made_of_it(tmp_path: Path) -> None:
    # One value of the axis is what was chosen: its two cells are not run again.
    lines = plan_lines(written(tmp_path), jobs=1)
    assert "8 tuning and 6 reporting cells (2 values of axes), 14 in all, 14 of them done" in lines


def test_a_study_has_a_table_of_the_final_and_of_the_selected_models_at_every_point(
    tmp_path: Path,
) -> None:
    _, *tables = tables_of([written(tmp_path).folder])
    assert [t.title for t in tables] == [
        f"small, {point}: {kind}"
        for point in ("main table", "ε₀ low", "ε₀ tuned")
        for kind in ("final model", "best model on validation")
    ]
    means = [[line.score.mean for line in table.lines] for table in tables]
    main, best = [0.5, 0.725], [0.55, 0.775]
    expected = [main, best, [0.5, 0.425], [0.55, 0.475], main, best]
    assert means == [[pytest.approx(x) for x in row] for row in expected]
    assert [line.label for line in tables[0].lines] == ["vanilla OPD", "trb"]
    assert [line.setting for line in tables[0].lines] == [
        "optimizer.lr: 0.0005",
        "behaviour.budget: 0.01",
    ]
    assert tables[0].baseline == "vanilla OPD"
    (_, turned, *_) = tables_of([written(tmp_path / "again").folder], baseline="trb")
    assert turned.baseline == "trb"
    with pytest.raises(ValueError, match="'x' is no row of this study; there are opd, trb"):
        tables_of([written(tmp_path / "third").folder], baseline="x")


def test_what_was_expected_comes_first_and_is_corrected_over_all_of_it(tmp_path: Path) -> None:
    study = written(tmp_path)
    path = study.folder / "study.yaml"
    declared = yaml.safe_load(path.read_text())
    more = {"text": "the best <is> better", "row": "trb", "than": "opd", "model": "selected"}
    turned = {"text": "turned", "row": "opd", "than": "trb"}
    declared["study"]["hypotheses"] += [more, turned]
    path.write_text(yaml.safe_dump(declared))
    (found, *_) = tables_of([study.folder])
    assert found.title == "small, what was expected"
    assert [line.label for line in found.lines] == [
        "trb over vanilla OPD",
        "trb (best) over vanilla OPD (best)",
        "vanilla OPD over trb",
    ]
    against = [line.against for line in found.lines]
    assert all(one is not None and one.unit == "seeds" for one in against)
    means = [one.difference.mean for one in against if one is not None]
    assert means == [pytest.approx(x) for x in (0.225, 0.225, -0.225)]
    p = [one.p for one in against if one is not None]
    assert p == [pytest.approx(p[0])] * 3
    assert [one.holm_p for one in against if one is not None] == [pytest.approx(3 * p[0])] * 3
    assert found.notes[-1] == (
        "Declared before this study's runs: 1. blending helps: trb over vanilla OPD, final model. "
        "2. the best <is> better: trb over vanilla OPD, selected model. "
        "3. turned: vanilla OPD over trb, final model."
    )


def test_a_run_that_diverged_scores_nothing_and_is_named(tmp_path: Path) -> None:
    (_, table, *_) = tables_of([written(tmp_path, diverged=("trb", 1)).folder])
    assert table.lines[1].score.mean == pytest.approx((0.7 + 0.0) / 2)
    assert "trb: 1 of 2 runs diverged (seeds 1) and score 0." in table.remarks


def test_an_unfinished_study_says_what_is_missing(tmp_path: Path) -> None:
    study = written(tmp_path)
    for name in ("test-final", "test-best"):
        (study.folder / f"reporting/main/trb/seed-1/evaluations/{name}.json").unlink()
    titles = [table.title for table in tables_of([study.folder])]
    assert not [title for title in titles if "main table" in title or "tuned" in title]
    write_record(study.folder / "reporting/main/trb/seed-1", "test-final", record(0.8))
    (_, table, *_) = tables_of([study.folder])
    assert table.title == "small, main table: final model"
    (study.folder / "reporting/budget-low/trb/seed-1/evaluations/test-final.json").unlink()
    for seed in (0, 1):
        for name in ("test-final", "test-best"):
            path = study.folder / f"reporting/main/opd/seed-{seed}/evaluations/{name}.json"
            path.unlink()
    with pytest.raises(ValueError, match="has no results to compare yet: finish it with tandem st"):
        tables_of([study.folder])


def test_the_results_of_a_study_are_written_beside_its_runs(tmp_path: Path) -> None:
    study = written(tmp_path)
    lines = write_results(read_study(study.folder), command="tandem study small.yaml")
    text = (study.folder / "results" / "comparison.csv").read_text()
    assert text == as_csv(tables_of([study.folder]))
    assert len(list(csv.DictReader(io.StringIO(text)))) == 13
    assert "small, main table: final model" in lines


def test_the_setting_of_an_axis_is_what_its_runs_had(tmp_path: Path) -> None:
    tables = tables_of([written(tmp_path).folder])
    settings = {t.title: [line.setting for line in t.lines] for t in tables}
    assert settings["small, main table: final model"][1] == "behaviour.budget: 0.01"
    assert settings["small, ε₀ low: final model"][1] == "behaviour.budget: 0.001"
    assert settings["small, ε₀ low: final model"][0] == "optimizer.lr: 0.0005"


def test_a_row_whose_runs_all_diverged_scores_0_and_is_judged(tmp_path: Path) -> None:
    study = written(tmp_path)
    for seed in (0, 1):
        folder = study.folder / f"reporting/main/trb/seed-{seed}"
        shutil.rmtree(folder / "evaluations")
        write_cell_end(folder, CellEnd(seconds=1.0, whole=True, diverged="the loss is nan"))
    expected, main, *_ = tables_of([study.folder])
    assert main.title == "small, main table: final model"
    assert [line.score.mean for line in main.lines] == [0.5, 0.0]
    assert main.remarks == ("trb: 2 of 2 runs diverged (seeds 0, 1) and score 0.",)
    assert main.lines[1].against is not None and main.lines[1].against.verdict == "worse"
    assert expected.lines[0].against is not None


def test_another_baseline_is_named_where_its_tuning_is_told_of(tmp_path: Path) -> None:
    file = small_study(tmp_path, lambda data: data["rows"]["trb"].pop("sweep")).file
    assert "The baseline, trb, was tuned with fewer runs" in sweep_notes(file, baseline="trb")[1]
    assert len(sweep_notes(file)) == 1


def test_of_settings_with_equal_means_the_first_is_chosen_whatever_order_adds_up_to(
    tmp_path: Path,
) -> None:
    def change(data: dict[str, Any]) -> None:
        data["seeds"]["tuning"] = [7, 8, 9]

    file = small_study(tmp_path, change).file
    scores = {0: (0.3, 0.2, 0.1), 1: (0.1, 0.2, 0.3)}
    chosen = choose(file, lambda row, setting, seed: scores[setting][seed - 7])
    assert chosen["trb"].chosen == chosen["opd"].chosen == 0
    assert chosen["trb"].tried[0].mean == pytest.approx(0.2)


def test_unequal_tuning_is_told_of(tmp_path: Path) -> None:
    assert sweep_notes(small_study(tmp_path).file) == ["Tuning: 4 runs per row."]
    more = {"behaviour.budget": [0.01, 0.1, 0.2]}
    file = small_study(tmp_path, lambda data: data["rows"]["trb"].update(sweep=more)).file
    assert sweep_notes(file) == [
        "Tuning runs differ: vanilla OPD 4, trb 6.",
        "The baseline, vanilla OPD, was tuned with fewer runs than trb: part of their lead may be "
        "tuning.",
    ]
    untuned = small_study(tmp_path, lambda data: data["rows"]["opd"].pop("sweep")).file
    assert (
        "The baseline, vanilla OPD, was tuned with fewer runs than trb" in sweep_notes(untuned)[1]
    )
    file = small_study(tmp_path, lambda data: data["rows"]["trb"].pop("sweep")).file
    assert sweep_notes(file) == ["Tuning runs differ: vanilla OPD 4, trb 0."]
