"""What a study's results say where Markdown is read: the first line, the tables, the pictures."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from tests.studies.test_compare import written
from tests.studies.test_tables import record

from tandem.evaluation.record import write_record
from tandem.front import studying
from tandem.studies.grid import Study
from tandem.studies.report_marks import wrapped
from tandem.studies.report_tables import differences
from tandem.studies.results_page import headline, results_files
from tandem.studies.study_folder import CellEnd, cell_end, read_study, write_cell_end
from tandem.studies.study_tables import study_tables
from tandem.studies.tables import in_markdown, table_in_markdown

COMMAND = "tandem study small.yaml --jobs 2"


def files(study: Study) -> dict[str, str]:
    folder = read_study(study.folder)
    return results_files(folder, study_tables(folder), command=COMMAND)


def scored(study: Study, row: str, *shares: float) -> None:
    """Overwrite what a row's final models score on the test split."""
    for seed, share in enumerate(shares):
        run = study.folder / f"reporting/main/{row}/seed-{seed}"
        write_record(run, "test-final", record(share))


def first_line(study: Study) -> str:
    return files(study)["README.md"].splitlines()[0]


def test_every_table_and_picture_is_on_the_page_and_every_picture_is_a_file(
    tmp_path: Path,
) -> None:
    study = written(tmp_path)
    found = files(study)
    page = found["README.md"]
    folder = read_study(study.folder)
    tables = study_tables(folder)
    for table in tables:
        if table.point is not None:
            assert table_in_markdown(replace(table, notes=())).rstrip("\n") in page
        assert all(in_markdown(remark) in page for remark in table.remarks)
        for note in table.notes:
            assert page.count(in_markdown(note)) == 1, "said, and said once"
    assert COMMAND in page
    named = re.findall(r"!\[(?:[^\]\\]|\\.)*\]\(([^)]+)\)", page)
    pictures = [name for name in found if name.endswith(".svg")]
    assert sorted(named) == sorted(pictures)
    assert {"differences-test-final.svg", "differences-test-best.svg"} <= set(pictures)
    for name in pictures:
        root = ElementTree.fromstring(found[name])
        assert root.tag.endswith("svg")
        assert "fill: #ffffff" in found[name], "dark text needs paper of its own"


def test_names_of_rows_are_wrapped_in_the_picture_of_differences(tmp_path: Path) -> None:
    folder = read_study(written(tmp_path).folder)
    table = next(table for table in study_tables(folder) if table.point is not None)
    lines = [
        replace(line, label=f"forward KL and guidance (number {i})")
        for i, line in enumerate(table.lines)
    ]
    picture = differences(replace(table, lines=tuple(lines))).file()
    compared = [i for i, line in enumerate(table.lines) if line.against is not None]
    assert compared
    for i in compared:
        assert f"(number {i})" in picture, "what tells rows apart often stands last"
    assert wrapped("a b " * 40, 10).splitlines() == ["a b a b a", "b a b a b…"]


def test_the_first_line_says_what_is_shown_and_what_is_not(tmp_path: Path) -> None:
    study = written(tmp_path)
    folder = read_study(study.folder)
    expected = [table for table in study_tables(folder) if table.point is None]
    verdict = expected[0].lines[0].against
    assert verdict is not None
    verb = {"better": "beats", "worse": "does worse than"}.get(verdict.verdict, "does not beat")
    assert first_line(study).startswith(f"# small: trb {verb} vanilla OPD (")


@pytest.mark.parametrize(
    "opd, trb, said",
    [
        ((0.2, 0.21), (0.8, 0.81), "trb beats vanilla OPD (+60.0"),
        ((0.8, 0.81), (0.2, 0.21), "trb does worse than vanilla OPD (-60.0"),
        ((0.5, 0.6), (0.6, 0.5), "trb does not beat vanilla OPD (+0.0"),
    ],
)
def test_each_verdict_has_its_own_verb(
    tmp_path: Path, opd: tuple[float, float], trb: tuple[float, float], said: str
) -> None:
    study = written(tmp_path)
    scored(study, "opd", *opd)
    scored(study, "trb", *trb)
    assert said in first_line(study)


def test_only_what_was_expected_of_final_models_against_the_baseline_is_in_the_first_line(
    tmp_path: Path,
) -> None:
    def more(data: dict[str, Any]) -> None:
        data["hypotheses"] += [
            {"text": "with the best one too", "row": "trb", "than": "opd", "model": "selected"},
            {"text": "the other way round", "row": "opd", "than": "trb"},
        ]

    line = first_line(written(tmp_path, change=more))
    assert line.count("points") == 1 and line.startswith("# small: trb ")


def test_a_diverged_run_is_told_of_below_every_table_that_it_is_in(tmp_path: Path) -> None:
    page = files(written(tmp_path, diverged=("trb", 1)))["README.md"]
    tables = study_tables(read_study(tmp_path / "runs" / "small"))
    told = "trb: 1 of 2 runs diverged (seeds 1) and score 0."
    assert page.count(told) == sum(told in table.remarks for table in tables) > 1


def test_a_diverged_tuning_run_has_the_0_that_it_was_judged_by(tmp_path: Path) -> None:
    study = written(tmp_path)
    run = study.folder / "tuning/trb/setting-1/seed-8"
    write_cell_end(run, CellEnd(seconds=1.0, whole=True, diverged="the loss is nan"))
    rows = list(csv.DictReader(io.StringIO(files(study)["runs.csv"])))
    (row,) = [row for row in rows if row["diverged"]]
    assert (row["validation"], row["test_final"]) == ("0.0000", "")


def test_the_final_and_the_selected_score_are_not_exchanged(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(files(written(tmp_path))["runs.csv"])))
    main = [row for row in rows if row["phase"] == "reporting" and not row["axis"]]
    (row,) = [row for row in main if (row["row"], row["seed"]) == ("opd", "0")]
    assert (row["test_final"], row["test_selected"]) == ("0.5000", "0.5500")


def test_pictures_whose_names_would_be_the_same_are_two_files(tmp_path: Path) -> None:
    def more(data: dict[str, Any]) -> None:
        values = {"x": {"optimizer.lr": 1e-4}}
        data["axes"] |= {
            "lr.x": {"rows": ["opd", "trb"], "values": values},
            "lr_x": {"rows": ["opd", "trb"], "values": {"y": {"optimizer.lr": 2e-4}}},
        }

    found = files(written(tmp_path, change=more))
    assert {"axis-lr-x.svg", "axis-lr-x-2.svg"} <= set(found)
    assert found["axis-lr-x.svg"] != found["axis-lr-x-2.svg"]


def test_what_a_run_ran_on_is_told_without_what_is_its_own(tmp_path: Path) -> None:
    study = written(tmp_path)
    for seed in (0, 1):
        facts = {"versions": {"torch": "2.13"}, "seed": seed, "command": ["x"], "resumed_at": 0}
        path = study.folder / f"reporting/main/opd/seed-{seed}/environment.json"
        path.write_text(json.dumps(facts))
    page = files(study)["README.md"]
    assert "| versions.torch | 2.13 |" in page
    assert "| seed |" not in page and "| command |" not in page


def test_a_study_without_references_or_sweeps_has_no_empty_parts(tmp_path: Path) -> None:
    page = files(written(tmp_path))["README.md"]
    assert "## For scale" not in page and "## Tuning" in page


def test_without_tables_nothing_is_claimed(tmp_path: Path) -> None:
    study = written(tmp_path)
    assert headline(read_study(study.folder), []) == "small: results"


def test_runs_csv_has_every_run_with_its_scores(tmp_path: Path) -> None:
    study = written(tmp_path)
    rows = list(csv.DictReader(io.StringIO(files(study)["runs.csv"])))
    folder = read_study(study.folder)
    assert len(rows) == len(folder.plan)
    tuning = [row for row in rows if row["phase"] == "tuning"]
    assert tuning and all(row["test_final"] == row["test_selected"] == "" for row in tuning)
    reported = [row for row in rows if row["phase"] == "reporting"]
    scored(study, "trb", 0.125, 0.25)
    again = list(csv.DictReader(io.StringIO(files(study)["runs.csv"])))
    changed = [row for row in again if row not in rows]
    assert {row["row"] for row in changed} == {"trb"}
    assert reported and all(row["test_final"] for row in reported)


def test_the_time_that_runs_took_is_told_with_those_that_took_longer(tmp_path: Path) -> None:
    study = written(tmp_path)
    page = files(study)["README.md"]
    assert "A run took 2 s (median), 4 s at the most, with its judgement.\n" in page
    declared = study.folder / "study.yaml"
    data = yaml.safe_load(declared.read_text(encoding="utf-8"))
    data["study"]["time_limit"] = 3.5
    declared.write_text(yaml.safe_dump(data), encoding="utf-8")
    page = files(study)["README.md"]
    over = re.search(r"; a run was meant to take 3.5 s at most, (\d+) took longer", page)
    ends = [cell_end(path.parent) for path in study.folder.rglob("cell.json")]
    whole = sorted(end.seconds for end in ends if end is not None)
    assert f"A run took {whole[len(whole) // 2]:.0f} s (median)" in page
    run = study.folder / "reporting/main/trb/seed-1"
    write_cell_end(run, CellEnd(seconds=99.0, whole=False))
    assert "99 s" not in files(study)["README.md"], "the end of an interrupted run says little"
    assert over is not None
    assert int(over[1]) == sum(end is not None and end.seconds > 3.5 for end in ends) > 0


def test_the_command_is_the_one_that_was_typed() -> None:
    line = studying._command("my study.yaml", ["seeds.reporting=[0,1]"], 2)
    assert line == "tandem study 'my study.yaml' 'seeds.reporting=[0,1]' --jobs 2"
