"""The command on the embedded pair, from a recipe to a report."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tandem.cli import app
from tandem.front.demo import run_demo

ROOT = Path(__file__).parents[1]
TINY = (
    "training.steps=2",
    "rollout.prompts_per_step=2",
    "rollout.samples_per_prompt=2",
    "optimizer.warmup_steps=0",
    "evaluation.every=2",
    "evaluation.problems=4",
    "evaluation.samples=1",
)


def _train(*overrides: str, name: str) -> list[dict[str, float]]:
    arguments = ["train", "arithmetic", *TINY, f"name={name}", *overrides]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lines = (Path("runs") / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _defined() -> set[str]:
    """Keys in the first column of a table of docs/metrics.md."""
    rows = re.findall(r"^\|([^|]+)\|", (ROOT / "docs" / "metrics.md").read_text(), flags=re.M)
    return {key for row in rows for key in re.findall(r"`([a-z0-9_]+/[a-z0-9_@]+)`", row)}


@pytest.mark.parametrize(
    "form",
    [
        ("objective.support=student_topk",),
        ("objective.kind=reverse_kl", "objective.support=full", "objective.top_k=null",
         "objective.tail=null"),
        ("objective.support=sampled", "objective.top_k=null", "objective.tail=null",
         "objective.importance=exact"),
        ("behaviour.kind=student",),
    ],
    ids=["top-k", "full", "sampled", "student"],
)  # fmt: skip
def test_every_key_that_a_run_writes_is_defined(
    form: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = _train(*form, name="tiny")
    written = {key for row in rows for key in row} - {"step"}
    assert {"train/loss", "rollout/length", "eval/pass@1", "time/step"} <= written
    assert written <= _defined()


def test_a_run_leaves_every_file_and_can_be_judged_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = _train(name="tiny")
    assert [row["step"] for row in rows] == [0, 1, 2]
    folder = tmp_path / "runs" / "tiny"
    left = {path.name for path in folder.iterdir()}
    files = {"config.yaml", "metrics.jsonl", "samples.jsonl", "environment.json", "report.html"}
    assert left == files | {"checkpoints", "final", "best", "evaluations"}

    judged = CliRunner().invoke(app, ["eval", "runs/tiny"])
    assert judged.exit_code == 0, judged.output
    assert re.match(r"pass@1     \d+\.\d % \[.*\], 4 test problems × 1\n", judged.stdout)

    page = (folder / "report.html").read_bytes()
    again = CliRunner().invoke(app, ["report", "runs/tiny"])
    assert again.exit_code == 0 and (folder / "report.html").read_bytes() == page

    twice = CliRunner().invoke(app, ["train", "arithmetic", *TINY, "name=tiny"])
    assert twice.exit_code == 2
    assert twice.stderr == (
        "tandem: runs/tiny already holds a run; go on with it with --resume, or give this one "
        "another name\n"
    )


def test_a_mistake_found_by_the_doctor_leaves_no_run_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = ["train", "arithmetic", *TINY, "name=tiny", "rollout.max_new_tokens=5000"]
    result = CliRunner().invoke(app, wrong)
    assert result.exit_code == 2
    assert result.stderr.startswith("tandem: student context: max_prompt_tokens + max_new_tokens")
    _train(name="tiny")


def test_the_demo_gives_the_same_numbers_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [run_demo(tmp_path / name, overrides=TINY, problems=8) for name in ("a", "b")]
    # Both methods train one pair: what there is to say of it is said once per demo.
    assert capsys.readouterr().out.count("\nmemory: the run needs about ") == len(found)
    first, second = ((tmp_path / name / "results.json").read_text() for name in ("a", "b"))
    assert first == second
    result = found[0]
    assert result is not None
    assert list(result.scores) == ["teacher", "student before", "vanilla OPD", "TRB"]
    assert result.scores["teacher"].pass_at_1.mean > 0.9
    for page in ("report.html", "opd/report.html", "trb/report.html"):
        assert (tmp_path / "a" / page).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_with_0(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tandem", "train", "arithmetic", *TINY, "name=tiny"]
    process = subprocess.Popen(
        [*command, "training.steps=100000"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "runs" / "tiny" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count("\n") > 1):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "go on with --resume" in out.splitlines()[-1]
    assert len(list((metrics.parent / "checkpoints").iterdir())) == 1
    assert not (metrics.parent / "final").exists()
