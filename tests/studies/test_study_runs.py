"""A tiny study of the embedded pair, from its file to its tables, stopped half way and gone on."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from tests.studies.study_cases import write_study
from typer.testing import CliRunner

from tandem.cli import app
from tandem.front import studying
from tandem.front.cells import CellWork, do_cell
from tandem.studies.grid import open_study, tuning_cells
from tandem.studies.study_folder import cell_end
from tandem.tasks.arithmetic import Arithmetic
from tandem.tasks.base import Prompt, Split
from tandem.training.config import plain_data
from tandem.training.update import NotFinite

SHORT = ("seeds.tuning=[7]",)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _with_an_axis(data: dict[str, Any]) -> None:
    data["axes"] = {"student": {"rows": ["opd", "trb"], "values": {}}}
    data["axes"]["student"]["values"]["weaker"] = {"student.path": "made:weaker"}
    # Layers taken out and nothing more: no second of training.
    data["models"] = {"weaker": {"recipe": "arithmetic_base", "set": {"steps": 0}}}


def _study(*overrides: str, jobs: int = 1) -> str:
    console = Console(file=io.StringIO(), width=200)
    studying.study("small.yaml", [*SHORT, *overrides], dry_run=False, jobs=jobs, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _numbers(folder: Path) -> dict[str, Any]:
    """All that a study found, without clocks and paths."""
    found: dict[str, Any] = {"chosen": json.loads((folder / "chosen.json").read_text())}
    for path in sorted(folder.rglob("evaluations/*.json")):
        found[str(path.relative_to(folder))] = json.loads(path.read_text())
    for path in sorted(folder.rglob("metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{k: v for k, v in row.items() if "time" not in k and "second" not in k}
                for row in rows]  # fmt: skip
        found[str(path.relative_to(folder))] = kept
    return found


@pytest.mark.slow
def test_a_study_that_is_killed_and_stopped_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    write_study(tmp_path, _with_an_axis)
    said = _study(jobs=2)
    whole = tmp_path / "runs" / "small"
    assert said.startswith("small: 0 of 12 cells done, in runs/small\n")
    assert re.search(r"\[12/12\] reporting/\S+/seed-1: pass@1 \d+\.\d % \(test\) in 0:\d\d", said)
    assert "small, main table: final model" in said
    assert (whole / "results" / "comparison.html").is_file()
    assert (whole / "report.html").is_file()
    # A cell is a normal run folder that has been judged twice; what could be resumed is gone.
    cell = whole / "reporting" / "student-weaker" / "trb" / "seed-1"
    assert {path.name for path in cell.iterdir()} == {
        *("config.yaml", "metrics.jsonl", "samples.jsonl", "environment.json", "report.html"),
        *("evaluations", "final", "best", "cell.json"),
    }
    assert yaml.safe_load((cell / "config.yaml").read_text())["name"] == str(
        cell.relative_to(tmp_path / "runs")
    )
    expected = _numbers(whole)

    # Done is done: the same command runs nothing more, and finds the same.
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("cell.json")}
    assert "12 of 12 cells done" in _study()
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("cell.json")} == before
    whole.rename(tmp_path / "first")

    # Killed without a word in its first cells, then stopped politely in later ones.
    _interrupt(signal.SIGKILL, after=1)
    _interrupt(signal.SIGTERM, after=4)
    _study(jobs=2)
    assert _numbers(whole) == expected


def _interrupt(number: signal.Signals, *, after: int) -> None:
    """Start the study and send it a signal once so many cells are done and another one trains."""
    folder, told = Path("runs/small"), Path("told.txt")

    def busy() -> bool:
        # No walk through the whole folder: checkpoints are renamed while one looks.
        begun = [*folder.glob("tuning/*/*/*/metrics.jsonl"),
                 *folder.glob("reporting/*/*/*/metrics.jsonl")]  # fmt: skip
        done = [path for path in begun if cell_end(path.parent) is not None]
        return len(done) >= after and len(begun) > len(done)

    command = [sys.executable, "-m", "tandem", "study", "small.yaml", *SHORT]
    with (
        told.open("w") as output,
        subprocess.Popen(command, stdout=output, start_new_session=True) as process,
    ):
        try:
            deadline = time.monotonic() + 200
            while not busy():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            if number == signal.SIGTERM:
                process.send_signal(number)
                assert process.wait(timeout=100) == 0
        finally:
            # The processes that it started too; after a polite end there are none.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if number == signal.SIGTERM:
        said = "stopped; the same command goes on from here: runs/small"
        assert said in told.read_text()
    assert not (folder / "results").exists()


def test_tuning_never_reads_the_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(write_study(tmp_path), find=studying.recipe_path, runs="runs")
    cell = tuning_cells(study)[2]
    whole = Arithmetic.prompts

    def sealed(task: Arithmetic, split: Split) -> list[Prompt]:
        assert split != "test", "tuning looked at the test split"
        return whole(task, split)

    monkeypatch.setattr(Arithmetic, "prompts", sealed)
    end = do_cell(CellWork(plain_data(cell.config), "runs", None), lambda said: None)
    folder = Path("runs") / cell.config.name
    assert end == cell_end(folder) and end.whole and not end.diverged
    assert {path.stem for path in (folder / "evaluations").iterdir()} == {
        *("step-000000", "step-000002", "step-000004"),
    }
    jobs = studying._cell_jobs(study, tuning_cells(study))
    assert jobs and all(job.what.judging is None for job in jobs)
    assert cell.config.name not in [f"small/{job.name}" for job in jobs]


def test_a_run_that_diverges_ends_its_cell_and_not_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(write_study(tmp_path), find=studying.recipe_path, runs="runs")
    cell = tuning_cells(study)[0]

    def diverge(*args: Any, **options: Any) -> None:
        raise NotFinite("the loss is nan at step 3")

    monkeypatch.setattr("tandem.front.cells.run.train", diverge)
    work = CellWork(plain_data(cell.config), "runs", study.file.judging)
    (Path("runs") / cell.config.name).mkdir(parents=True)
    end = do_cell(work, lambda said: None)
    assert end.diverged == "the loss is nan at step 3"
    assert studying._scores(study, [cell])(cell.row, cell.setting, cell.seed) == 0.0


def _dry(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["study", *arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_dry_run_prints_every_cell_and_writes_nothing(tmp_path: Path) -> None:
    write_study(tmp_path, _with_an_axis)
    said = _dry("small.yaml", "--jobs", "2").splitlines()
    assert "tuning/trb/setting-1: seeds 7, 8" in said
    assert "reporting/student-weaker/opd: seeds 0, 1" in said
    assert "8 tuning and 8 reporting cells (1 values of axes), 16 in all, 0 of them done" in said
    assert said[-1] == "no cell is done yet, so there is no estimate of the time"
    assert "Tuning: 4 runs per row." in said
    assert not Path("runs").exists()
    assert _dry("small.yaml", "--jobs", "2", "time_limit=30").splitlines()[-1] == (
        "no cell is done yet; at 30 s each, as declared, 4:00 on 2 processes"
    )


def test_the_dry_run_estimates_from_what_is_done(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    study = open_study(path, find=studying.recipe_path, runs="runs")
    for cell, (seconds, whole) in zip(
        tuning_cells(study), ((10.0, True), (20.0, True), (1.0, False)), strict=False
    ):
        folder = Path("runs") / cell.config.name
        folder.mkdir(parents=True)
        text = json.dumps({"seconds": seconds, "whole": whole, "diverged": ""})
        (folder / "cell.json").write_text(text)
    said = _dry("small.yaml").splitlines()
    assert said[-2].endswith("12 in all, 3 of them done")
    # The third was begun in another session: its seconds say nothing. 9 × 15 s.
    assert said[-1] == "15 s a cell so far: about 2:15 left on one process"


def test_gpus_go_round_and_cpu_threads_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(write_study(tmp_path), find=studying.recipe_path, runs="runs")
    cpu = tuning_cells(study)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert studying._environments(1, cpu) == [{}]
    assert studying._environments(2, cpu) == [{"OMP_NUM_THREADS": "3"}] * 2
    gpu = open_study("small.yaml", ["set.device=auto"], find=studying.recipe_path, runs="runs")
    found = studying._environments(3, tuning_cells(gpu))
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["4", "6", "4"]


def test_a_study_is_named_by_path_or_by_one_of_ours() -> None:
    assert studying.study_path("studies/trb_table.yaml").name == "trb_table.yaml"
    with pytest.raises(ValueError, match=r"no study 'trb_tabel': .* did you mean 'trb_table'"):
        studying.study_path("trb_tabel")
