"""Probe and diagnostics in a report: what the files say, and nothing else."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

from tests.studies.report_cases import make_diagnosis, make_probe

from tandem.studies.report_analyses import analyses
from tandem.studies.report_diagnostics import Diagnosed, diagnostics_section, read_diagnosed
from tandem.studies.report_probe import probe_section, read_probe


def _rows(text: str) -> list[list[str]]:
    return [
        [unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", text)
    ]


def _alts(text: str) -> list[str]:
    return [unescape(alt) for alt in re.findall('alt="([^"]*)"', text)]


def test_the_probe_is_drawn_once_per_who_goes_on_and_every_number_is_in_its_table(
    tmp_path: Path,
) -> None:
    probe = read_probe(make_probe(tmp_path))
    text = probe_section(probe)
    titles = ["Continued by the teacher", "Continued by the student"]
    assert re.findall("<h3>(.*?)</h3>", text) == titles
    # By hand: 0.9 − 0.012 × 32, and 1.5 times the loss where the student goes on.
    assert "trust_region_blend ε=0.03 0.52" in _alts(text)[0]
    assert "trust_region_blend ε=0.03 0.32" in _alts(text)[1]
    assert len(_rows(text)) == 1 + len(probe["rows"])
    assert ["teacher", "8", "teacher", "86.8 [79.8, 92.8]", "12.5"] in _rows(text)
    assert "64 problems of arithmetic × 4 samples, seed 0" in text


def test_differences_from_the_students_prefixes_are_drawn_where_there_are_any(
    tmp_path: Path,
) -> None:
    probe: dict[str, Any] = read_probe(make_probe(tmp_path))
    place = {"behaviour": "teacher", "continued_by": "student", "mean": 0.1}
    probe["differences"] = [place | {"length": n, "low": -0.1, "high": 0.3} for n in (0, 8)]
    titles = re.findall("<h3>(.*?)</h3>", probe_section(probe))
    assert titles[2:] == ["Less the student&#x27;s prefixes, continued by the student"]


def test_scalars_of_three_models_responses_are_one_line(tmp_path: Path) -> None:
    text = diagnostics_section([read_diagnosed(make_diagnosis(tmp_path), "TRB")])
    assert _rows(text) == [
        ["", "this run", "student before"],
        ["teacher entropy", "0.213 [0.19, 0.24]", "0.6 [0.5, 0.7]"],
        ["auroc", "0.81 [0.77, 0.85]", ""],
        ["outlier share", "0.031", ""],
    ]


def test_quantiles_share_a_picture_with_their_mean_and_logged_metrics_are_folded(
    tmp_path: Path,
) -> None:
    text = diagnostics_section([read_diagnosed(make_diagnosis(tmp_path), "TRB")])
    first, folded = text.split("<details><summary>While training</summary>")
    assert re.findall("<h3>(.*?)</h3>", first) == ["kl by position", "exponent"]
    assert "Dotted: median." in first
    assert re.findall("<h3>(.*?)</h3>", folded) == ["train/grad_norm"]
    # From 0.9 at 0 down by 1/50 for each of 38 tokens.
    assert _alts(first)[0] == "kl by position: TRB from 0.9 to 0.14 over position in tokens"


def test_several_models_are_told_apart_in_each_picture(tmp_path: Path) -> None:
    data = read_diagnosed(make_diagnosis(tmp_path), "").data
    found = [Diagnosed("one", data), Diagnosed("<two>", data)]
    text = diagnostics_section(found)
    assert text.count('<ul class="key">') == 3 and text.count("</svg>&lt;two&gt;</li>") == 3
    assert _rows(text)[0] == [
        *("", "one, this run", "one, student before"),
        *("<two>, this run", "<two>, student before"),
    ]


def test_curves_without_points_and_empty_histograms_say_so(tmp_path: Path) -> None:
    path = make_diagnosis(tmp_path)
    data = json.loads(path.read_text())
    data["curves"]["kl_by_position"]["points"] = []
    data["histograms"]["exponent"]["counts"] = [0] * 20
    alts = _alts(diagnostics_section([Diagnosed("a", data)]))
    assert alts[0].startswith("kl by position: a has no points")
    assert alts[1] == "exponent: a is empty"


def test_files_are_found_below_a_folder_in_an_order_of_their_own(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        make_probe(tmp_path / name)
    text = analyses([tmp_path, tmp_path / "a"], name=lambda folder: folder.name)
    assert re.findall("<section><h3>(.*?)</h3>", text) == ["a", "b"]
    assert analyses([tmp_path / "none"], name=str) == ""
