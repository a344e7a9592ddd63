"""`tandem report`: pages about studies, runs and analyses, in any mix."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from tests.studies.conftest import metric_rows, write_run
from tests.studies.report_cases import make_diagnosis, make_probe, make_study
from typer.testing import CliRunner

from tandem.cli import app
from tandem.studies.compare import tables_of
from tandem.studies.report import write_report
from tandem.studies.report_folders import reports_page, write_reports
from tandem.studies.report_tables import per_cent, points


class _Page(HTMLParser):
    """Tags that nest, the cells of every table, and what the pictures are."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [str(v) for k, v in attrs if k in ("href", "src")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def _read(text: str) -> _Page:
    found = _Page()
    found.feed(text)
    found.close()
    assert not found.open
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_study(tmp_path_factory.mktemp("study"))
    make_probe(folder)
    make_diagnosis(folder / "reporting" / "main" / "trb" / "seed-0")
    return folder


@pytest.fixture(scope="module")
def text(study: Path) -> str:
    return write_reports([study]).read_text(encoding="utf-8")


def test_a_studys_page_is_a_pure_function_of_its_folder(study: Path, text: str) -> None:
    # The page itself lies there by now, and is no part of what it says.
    assert write_reports([study]).read_text(encoding="utf-8") == text


def test_a_studys_page_needs_nothing_outside_itself(text: str) -> None:
    found = _read(text)
    assert not found.tags & {"link", "iframe", "object", "base"}
    assert "url(" not in text and "@import" not in text and "http" not in found.text
    images = [str(image["src"]) for image in found.images]
    assert all(source.startswith("data:image/svg+xml;base64,") for source in images)
    assert {a for a in found.addresses if not a.startswith("data:")} == {
        f"{phase}/report.html" for phase in re.findall(r'href="([^"]+)/report.html"', text)
    }


def test_every_picture_says_in_words_what_it_shows(text: str) -> None:
    found = _read(text)
    # Two of differences, an axis, ten trajectories and two more of the axis, three sweeps, two of
    # the probe, three diagnostics.
    assert len(found.images) == 23
    for image in found.images:
        alt, source = str(image["alt"]), str(image["src"])
        assert len(alt) > 30 and "None" not in alt
        svg = base64.b64decode(source.partition(",")[2]).decode()
        assert svg.startswith("<?xml") and "nan" not in svg


def test_the_page_has_the_numbers_of_compare(study: Path, text: str) -> None:
    found = _read(text)
    expected, *tables = tables_of([study])
    assert expected.title == "blending, what was expected" and len(tables) == 6
    for table in tables:
        for line in table.lines:
            start = [line.label, str(line.runs), per_cent(line.score)]
            rows = [row for row in found.rows if row[:3] == start]
            against = line.against
            if against is None:
                assert [*start, "baseline", *[""] * 5] in rows
                continue
            (row,) = [row for row in rows if row[3] == points(against.difference)]
            assert row[7:] == [against.verdict, f"{100 * against.detectable:.1f}"]
        assert all(note in found.text for note in table.notes)


def test_hypotheses_have_the_verdicts_of_their_own_table(study: Path, text: str) -> None:
    found = _read(text)
    expected = tables_of([study])[0]
    texts = ["blending helps", "it is the annealing", "SKD is better than nothing"]
    rows = [row for row in found.rows if row[0] in texts]
    assert [row[0] for row in rows] == texts and len(expected.lines) == 3
    said = {"better": "shown", "worse": "the opposite is shown", "no difference shown": "not shown"}
    for row, line in zip(rows, expected.lines, strict=True):
        assert line.against is not None
        assert row[3] == points(line.against.difference)
        assert row[6] == said[line.against.verdict]
    assert rows[1][1:3] == ["TRB over fixed ε", "best model on validation"]
    assert all(note in found.text for note in expected.notes)


def test_the_page_says_how_far_the_study_is_and_what_diverged(text: str) -> None:
    found = _read(text)
    assert "80 of 80" in found.text and "of them diverged1" in found.text
    assert "reporting/main/skd/seed-3: diverged: the loss of step 15 is nan" in found.text
    rows = [row for row in found.rows if row and row[0].startswith("SKD")]
    assert "5 of 5, 1 diverged" in [row[4] for row in rows]
    assert "1 of 5 seeds end before step 40 (at 14)" in found.text


def test_the_sweep_marks_what_was_chosen(study: Path, text: str) -> None:
    chosen = json.loads((study / "chosen.json").read_text())
    found = _read(text)
    won = chosen["trb"]["tried"][chosen["trb"]["chosen"]]
    told = "Validation pass@1 against behaviour.budget"
    (budget,) = [i for i in found.images if str(i["alt"]).startswith(told)]
    value, mean = won["setting"]["behaviour.budget"], 100 * won["mean"]
    assert f"TRB chose {value:g} at {mean:.1f} %" in str(budget["alt"])
    rows = [r for r in found.rows if len(r) == 5 and r[4] == "chosen" and r[0] != "row"]
    assert len(rows) == 4 and [r[0] for r in rows][-1] == "TRB"


def test_teacher_and_untrained_student_stand_beside_the_table(text: str) -> None:
    rows = [r for r in _read(text).rows if r[0] in ("teacher", "student before training")]
    assert [r[1] for r in rows if len(r) == 3] == [
        *["main table"] * 2,
        *["chains of 2"] * 2,
        *["chains of 4"] * 2,
    ]


def test_an_unfinished_study_says_what_is_missing(tmp_path: Path) -> None:
    folder = make_study(tmp_path, full=False, only=3)
    found = _read(reports_page([folder], target=folder))
    assert "has no results to compare yet" in found.text
    assert found.text.count("not judged yet") == 3
    assert found.text.count(": open") == 17


def test_half_a_last_line_and_runs_without_evaluations_are_tolerated(tmp_path: Path) -> None:
    folder = make_study(tmp_path, full=False, seeds=(0, 1))
    cell = folder / "reporting" / "main" / "opd" / "seed-0"
    with (cell / "metrics.jsonl").open("ab") as file:
        file.write('{"step": 99, "é'.encode()[:-1])
    rows = [json.loads(x) for x in (cell / "metrics.jsonl").read_bytes().split(b"\n")[:-1]]
    without = [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows]
    bare = folder / "reporting" / "main" / "trb" / "seed-0"
    (bare / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in without))
    shutil.rmtree(bare / "evaluations")
    found = _read(reports_page([folder], target=folder))
    assert "TRB: 1 of 2 runs are done." in found.text
    (accuracy,) = [str(i["alt"]) for i in found.images if str(i["alt"]).startswith("Accuracy")]
    assert "TRB ends at" in accuracy and "vanilla OPD ends at" in accuracy


def test_a_study_on_one_seed_has_no_bands_and_says_so(tmp_path: Path) -> None:
    folder = make_study(tmp_path, full=False, seeds=(0,))
    found = _read(reports_page([folder], target=folder))
    assert "One seed only, so no band: vanilla OPD" in found.text
    assert "bands are their 95 % intervals" not in found.text
    assert "One run per row, paired by problem" in found.text


def test_runs_of_one_method_on_several_seeds_are_one_line(tmp_path: Path) -> None:
    paths = [_run(tmp_path / f"{n}-seed-{s}", n, s) for n in ("slow", "fast") for s in (0, 1, 2)]
    found = _read(reports_page(paths, target=tmp_path))
    header, slow, fast = found.rows[:3]
    assert header == ["method", "seeds", "pass@1 while training, %", "optimizer.lr"]
    assert slow[:2] == ["slow", "0, 1, 2"] and slow[3] == "0.1"
    assert fast[:2] == ["fast", "0, 1, 2"] and fast[3] == "0.2"
    # They were never judged by problem, and that is what the page says.
    assert "No table: " in found.text and "holds no evaluation by problem" in found.text
    assert "6 runs of 2 methods." in found.text


def test_the_same_recipe_on_the_same_seed_is_a_method_of_its_own(tmp_path: Path) -> None:
    paths = [_run(tmp_path / name, "same", 0) for name in ("first", "again")]
    found = _read(reports_page(paths, target=tmp_path))
    assert [row[0] for row in found.rows[1:3]] == ["first", "again"]


def test_runs_without_evaluations_have_a_page(tmp_path: Path) -> None:
    rows = [{k: v for k, v in r.items() if not k.startswith("eval")} for r in metric_rows()]
    paths = [write_run(tmp_path / name, rows=rows) for name in ("a", "b")]
    found = _read(reports_page(paths, target=tmp_path))
    assert [row[2] for row in found.rows[1:3]] == ["not evaluated"] * 2


def test_any_mix_of_folders_makes_one_page(tmp_path: Path) -> None:
    study = make_study(tmp_path, full=False, seeds=(0, 1))
    run = _run(tmp_path / "alone", "alone", 0)
    loose = tmp_path / "probe"
    loose.mkdir()
    make_probe(loose)
    target = tmp_path / "pages" / "all.html"
    found = _read(write_reports([loose, study, run, run], output=target).read_text("utf-8"))
    assert [a for a in found.addresses if a.startswith("#")] == ["#part-1", "#part-2", "#part-3"]
    assert found.text.count("Step-0 probe") == 1 and "1 runs" not in found.text


def test_links_lead_from_the_page_to_the_runs_own_reports(tmp_path: Path) -> None:
    runs = [_run(tmp_path / "runs" / name, name, 0) for name in ("a b", "c&d")]
    (runs[1] / "report.html").write_text("its own\n")
    target = tmp_path / "pages" / "both.html"
    found = _read(write_reports(runs, output=target).read_text("utf-8"))
    links = [a for a in found.addresses if not a.startswith("data:")]
    assert links == ["../runs/c%26d/report.html"]


def test_one_run_has_the_page_that_training_writes(run_folder: Path) -> None:
    expected = write_report(run_folder).read_bytes()
    assert write_reports([run_folder]).read_bytes() == expected
    make_probe(run_folder)
    make_diagnosis(run_folder)
    found = _read(write_report(run_folder).read_text("utf-8"))
    for heading in ("Step-0 probe", "Diagnostics", "Samples side by side", "Samples of step 60"):
        assert heading in found.text
    assert "script" in found.tags


def test_analyses_of_another_version_are_refused(run_folder: Path) -> None:
    path = make_diagnosis(run_folder)
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ValueError) as caught:
        write_reports([run_folder])
    assert str(caught.value) == (
        f"{path} has schema 2 and this report reads 1: write it anew with tandem diagnose"
    )


def test_the_command_says_where_the_page_lies_and_what_is_wrong(tmp_path: Path) -> None:
    one, two = (_run(tmp_path / name, name, 0) for name in ("a", "b"))
    done = CliRunner().invoke(app, ["report", str(one)])
    assert (done.exit_code, done.stdout) == (0, f"{one / 'report.html'}\n")
    done = CliRunner().invoke(app, ["report", str(one), str(two)])
    assert done.exit_code == 2 and done.stderr == (
        "tandem: 2 folders have no common place for a report: name its file, as --output "
        "comparison.html\n"
    )
    done = CliRunner().invoke(app, ["report", str(one), "--output", str(tmp_path)])
    assert done.exit_code == 2 and "is a folder: name a file for the report" in done.stderr
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    done = CliRunner().invoke(app, ["report", str(nothing)])
    assert done.exit_code == 2 and "is not a run folder: it holds no config.yaml" in done.stderr
    assert not (nothing / "report.html").exists()


def _run(folder: Path, name: str, seed: int) -> Path:
    folder = write_run(folder, rows=metric_rows(speed=20.0 + seed))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"name": str(folder), "seed": seed, "optimizer": {"lr": {"fast": 0.2}.get(name, 0.1)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder
