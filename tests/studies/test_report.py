"""The report of a run."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.studies.conftest import metric_rows, write_run

from tandem.studies.report import comparison_page, read_run, run_page, write_report


class _Tags(HTMLParser):
    """Every tag with its attributes, and whether the tags nest."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _parse(text: str) -> _Tags:
    tags = _Tags()
    tags.feed(text)
    assert not tags.open
    return tags


def test_a_report_is_a_pure_function_of_the_run_folder(run_folder: Path) -> None:
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


def test_a_report_needs_nothing_outside_itself(run_folder: Path) -> None:
    text = write_report(run_folder).read_text()
    tags = _parse(text)
    assert "script" not in {tag for tag, _ in tags.seen}
    assert "link" not in {tag for tag, _ in tags.seen}
    sources = [attrs["src"] for tag, attrs in tags.seen if tag == "img"]
    assert sources and all(s and s.startswith("data:image/svg+xml;base64,") for s in sources)
    assert "url(" not in text and "@import" not in text


def test_a_report_shows_each_picture_the_issue_asks_for(run_folder: Path) -> None:
    text = write_report(run_folder).read_text()
    titles = re.findall(r"<h3>(.*?)</h3>", text)
    for title in (
        "Accuracy",
        "Reverse KL",
        "Loss",
        "Teacher entropy",
        "Exponent",
        "Trust region",
        "Response length",
        "Truncated responses",
    ):
        assert title in titles


def test_a_report_states_accuracy_before_and_after_with_its_interval(run_folder: Path) -> None:
    # By hand from conftest: 0.02 at step 0; 0.9 (1 − e^−3) + 0.02 = 0.87519 at step 60.
    text = write_report(run_folder).read_text()
    assert "2.0 % [0.0, 6.0]" in text
    assert "87.5 % [83.5, 91.5]" in text


def test_samples_of_the_last_step_are_shown_as_text_not_as_markup(run_folder: Path) -> None:
    text = write_report(run_folder).read_text()
    assert "46-5=&lt;41&gt;" in text and "3 &amp; more" in text
    assert "an older prompt" not in text


def test_a_run_without_a_teacher_budget_has_no_budget_picture(tmp_path: Path) -> None:
    rows = [{k: v for k, v in r.items() if k.startswith(("step", "train"))} for r in metric_rows()]
    text = run_page(read_run(write_run(tmp_path / "plain", rows=rows)))
    titles = re.findall(r"<h3>(.*?)</h3>", text)
    assert titles == ["Reverse KL", "Loss", "Gradient norm"]


def test_a_run_stopped_before_its_first_step_still_has_a_report(tmp_path: Path) -> None:
    text = run_page(read_run(write_run(tmp_path / "empty", rows=[])))
    assert "No metrics were logged." in text


def test_a_comparison_draws_each_run_once_and_links_its_report(tmp_path: Path) -> None:
    runs = {
        "vanilla OPD": read_run(write_run(tmp_path / "opd", rows=metric_rows(speed=40))),
        "TRB": read_run(write_run(tmp_path / "trb", rows=metric_rows())),
    }
    text = comparison_page(
        runs,
        title="Demo",
        header=("who", "pass@1"),
        rows=[{"who": "teacher", "pass@1": "96 %"}],
        notes=["one seed each, so < no verdict"],
    )
    links = [attrs.get("href") for tag, attrs in _parse(text).seen if tag == "a"]
    assert links == ["opd/report.html", "trb/report.html"]
    assert "<td>teacher</td><td>96 %</td>" in text
    assert "<p>one seed each, so &lt; no verdict</p>" in text
    images = [attrs for tag, attrs in _parse(text).seen if tag == "img"]
    (region,) = [x for x in images if x["alt"] == "Trust region by optimiser step"]
    svg = base64.b64decode(str(region["src"]).partition(",")[2]).decode()
    # Text is drawn as glyphs, but each curve's legend is named in a comment of its group.
    assert svg.count("<!-- TRB, budget -->") == 1 and svg.count("<!-- TRB -->") == 1


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        read_run(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is not a run folder: it holds no config.yaml; give a run's, such as "
        "runs/arithmetic"
    )
    with pytest.raises(ValueError) as caught:
        read_run(tmp_path / "gone")
    assert str(caught.value) == (
        f"{tmp_path / 'gone'} is not a run folder: there is no such folder; give a run's, such as "
        "runs/arithmetic"
    )


def test_a_folder_of_several_runs_names_them(tmp_path: Path) -> None:
    for name in ("trb", "opd"):
        write_run(tmp_path / name, rows=metric_rows(steps=1))
    with pytest.raises(ValueError) as caught:
        read_run(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is not a run folder: it holds several runs; name one: {tmp_path / 'opd'}, "
        f"{tmp_path / 'trb'}"
    )


def test_a_killed_run_has_a_report_and_so_has_one_with_any_text(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rows=metric_rows(steps=1))
    said = json.dumps({"step": 1, "completion": "a\u2028<b>"}, ensure_ascii=False) + "\n"
    (folder / "samples.jsonl").write_text(said, encoding="utf-8")
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write('{"step": 2, "é'.encode()[:-1])
    text = write_report(folder).read_text(encoding="utf-8")
    assert "a\u2028&lt;b&gt;" in text
    assert "<dt>optimiser steps</dt><dd>1</dd>" in text


def test_numbers_that_are_none_are_shown_as_such(tmp_path: Path) -> None:
    rows = metric_rows(steps=2)
    rows[1]["train/reverse_kl"] = rows[2]["train/reverse_kl"] = float("nan")
    text = run_page(read_run(write_run(tmp_path / "run", rows=rows)))
    assert "nan → nan" in text
