"""`tandem diagnose` on the folder of a real run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tandem.cli import app
from tandem.run import train
from tandem.training.config import load_config
from tandem.training.own_recipes import recipe_path

OVERRIDES = (
    "name=tiny",
    "task.train_size=100",
    "task.validation_size=20",
    "task.test_size=50",
    "rollout.prompts_per_step=8",
    "rollout.max_new_tokens=16",
    "training.steps=3",
    "training.save_every=2",
    "optimizer.warmup_steps=0",
    "optimizer.lr=0.002",
    "evaluation.every=3",
    "evaluation.problems=4",
    "evaluation.samples=1",
)
DOCS = Path(__file__).parents[2] / "docs" / "analyses.md"
SIZE = ("--problems", "3", "--samples", "2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = load_config(recipe_path("arithmetic"), OVERRIDES)
    return train(config, runs=tmp_path_factory.mktemp("runs")).folder


def diagnosed(run: Path, *arguments: str, at: Path | None = None) -> tuple[dict[str, Any], str]:
    result = CliRunner().invoke(app, ["diagnose", str(run), *SIZE, *arguments])
    assert result.exit_code == 0, result.output
    return json.loads(((at or run) / "diagnose.json").read_text()), result.stdout


def bounds_in_order(mean: float, low: float | None, high: float | None) -> bool:
    return low is None or high is None or low <= mean <= high


def test_it_prints_a_summary_and_writes_the_file_into_the_run(run: Path) -> None:
    data, out = diagnosed(run)
    parts = ("schema", "run", "checkpoint", "problems", "samples_per_problem", "scalars")
    assert set(data) == {*parts, "curves", "histograms", "split", "behaviour", "samples"}
    assert (data["schema"], data["run"], data["checkpoint"]) == (1, "tiny", "final")
    assert (data["problems"], data["behaviour"]) == (3, "trust_region_blend")
    for found in data["scalars"].values():
        assert set(found) == {"mean", "low", "high"} and bounds_in_order(**found)
    for curve in data["curves"].values():
        assert set(curve) == {"unit", "x", "points"} and curve["points"]
        for point in curve["points"]:
            assert set(point) == {"x", "mean", "low", "high"}
            assert bounds_in_order(point["mean"], point["low"], point["high"])
    assert set(data["histograms"]) == {"exponent", "kl_spent"}
    for histogram in data["histograms"].values():
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    assert {sample["who"] for sample in data["samples"]} == {
        "student before", "student after", "teacher"
    }  # fmt: skip
    for sample in data["samples"]:
        assert len(sample["tokens"]) == len(sample["values"]) > 0
        assert type(sample["correct"]) is bool and sample["value"] == "kl"
    lines = out.splitlines()
    assert lines[0].split() == ["student", "student", "before", "teacher"]
    assert any(line.startswith("teacher_entropy") for line in lines)
    assert "3 test problems × 2" in out and lines[-1] == str(run / "diagnose.json")


def test_the_curves_over_steps_are_the_lines_of_metrics(run: Path) -> None:
    data, _ = diagnosed(run)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for key in ("train/grad_norm", "rollout/teacher_entropy", "rollout/exponent"):
        logged = [[row["step"], row[key]] for row in rows if key in row]
        assert len(logged) == 3
        assert [[p["x"], p["mean"]] for p in data["curves"][key]["points"]] == logged


def test_start_is_the_student_before_and_training_moves_it(run: Path, tmp_path: Path) -> None:
    start, _ = diagnosed(run, "--checkpoint", "start", "--output", str(tmp_path), at=tmp_path)
    final, _ = diagnosed(run)
    for name in ("accuracy", "teacher_entropy", "reverse_kl", "teacher_logprob"):
        before = final["scalars"][f"{name}_before"]
        assert start["scalars"][name] == before == start["scalars"][f"{name}_before"]
    assert final["scalars"]["reverse_kl"] != final["scalars"]["reverse_kl_before"]
    assert start["checkpoint"] == "start"


def test_a_checkpoint_of_the_run_is_diagnosed_by_its_step(run: Path, tmp_path: Path) -> None:
    at = tmp_path / "step3"
    last, _ = diagnosed(run, "--checkpoint", "step3", "--output", str(at), at=at)
    final, _ = diagnosed(run)
    assert last["checkpoint"] == "step3"
    assert last["scalars"]["reverse_kl"]["mean"] == pytest.approx(
        final["scalars"]["reverse_kl"]["mean"], rel=1e-4
    )


def test_a_run_without_a_blend_is_seen_through_the_plotted_one(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "student")
    text = (copy / "config.yaml").read_text()
    start = text.index("behaviour:\n")
    end = text.index("objective:\n")
    (copy / "config.yaml").write_text(f"{text[:start]}behaviour:\n  kind: student\n{text[end:]}")
    data, _ = diagnosed(copy)
    assert data["behaviour"] == "fixed_budget_blend"
    points = data["curves"]["kl_spent_by_budget"]["points"]
    (at_plotted,) = [p for p in points if p["x"] == 0.02]
    assert data["scalars"]["kl_spent"]["mean"] == at_plotted["mean"]


def test_every_number_of_the_file_is_defined(run: Path) -> None:
    data, _ = diagnosed(run)
    defined = set(re.findall(r"`([^`\n]+)`", DOCS.read_text()))
    names = {name.removesuffix("_before").removesuffix("_teacher") for name in data["scalars"]}
    names |= {name.partition(",")[0] for name in data["curves"]} | set(data["histograms"])
    assert len(names) > 15 and names <= defined


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere",), "nowhere is not a run folder"),
        (("RUN", "--checkpoint", "step7"), "keeps no weights of step 7"),
        (("RUN", "--checkpoint", "last"), "a run has no model 'last'"),
        (("RUN", "--split", "all"), "split is 'all'; a task has train, validation, test"),
    ],
)
def test_a_mistake_is_one_sentence(run: Path, arguments: tuple[str, ...], sentence: str) -> None:
    words = [str(run) if word == "RUN" else word for word in arguments]
    result = CliRunner().invoke(app, ["diagnose", *words, *SIZE])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("tandem: ") and result.stderr.count("\n") == 1
    assert sentence in result.stderr
