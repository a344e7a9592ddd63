"""metrics.jsonl and the trackers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tandem.run import train
from tandem.training.config import config_from_dict
from tandem.training.tracking import LineLog, NoTracker, open_tracker


def test_lines_are_in_the_file_when_write_returns(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "metrics.jsonl")
    log.write(0, {"eval/pass@1": 0.5})
    log.write(1, {"train/loss": 1.0})
    found = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert found == [{"step": 0, "eval/pass@1": 0.5}, {"step": 1, "train/loss": 1.0}]


def test_cutting_drops_later_steps_and_a_half_written_line(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "metrics.jsonl")
    log.cut(3)  # nothing there yet
    for step in range(6):
        log.write(step, {"x": step})
    with log.path.open("a") as file:
        file.write('{"step": 2, "x"')
    log.cut(3)
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [0, 1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_cutting_reads_bytes_and_lines_as_they_were_written(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "samples.jsonl")
    # Line separators that JSON leaves as they are, and a last line cut within a character.
    for step in (1, 2):
        log.write(step, {"completion": "a\u2028b\x85c\r\n"})
    with log.path.open("ab") as file:
        file.write('{"step": 2, "completion": "é'.encode()[:-1])
    log.cut(1)
    assert json.loads(log.path.read_bytes()) == {"step": 1, "completion": "a\u2028b\x85c\r\n"}
    assert log.latest() == {"completion": "a\u2028b\x85c\r\n"}


def test_no_tracker_is_needed(recipe: dict[str, Any], tmp_path: Path) -> None:
    assert isinstance(open_tracker(config_from_dict(recipe), tmp_path, first=True), NoTracker)


@pytest.mark.parametrize("kind", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_names_its_extra(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    module = "torch.utils.tensorboard" if kind == "tensorboard" else kind
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    config = config_from_dict(recipe | {"tracker": {"kind": kind}})
    with pytest.raises(
        ValueError,
        match=rf"^tracker\.kind is '{kind}', but {kind} is not installed; run pip install "
        rf"'tandem-opd\[{kind}\]' or set tracker\.kind=none$",
    ):
        open_tracker(config, tmp_path, first=True)
    assert isinstance(open_tracker(config, tmp_path, first=False), NoTracker)


class Board(ModuleType):
    """A package with the interface that wandb and trackio share, keeping what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.told: list[Any] = []

    def init(self, **known: Any) -> None:
        self.told.append((known["project"], known["name"], known["config"]["seed"]))

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        self.told.append((step, metrics))

    def finish(self) -> None:
        self.told.append("finished")


def test_a_named_tracker_is_told_every_line_of_the_log(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board()
    monkeypatch.setitem(sys.modules, "wandb", board)
    recipe |= {"tracker": {"kind": "wandb", "project": "p"}}
    result = train(config_from_dict(recipe), runs=tmp_path)
    rows = [json.loads(x) for x in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert board.told[0] == ("p", "tiny", 0)
    assert board.told[1:-1] == [(row.pop("step"), row) for row in rows]
    assert board.told[-1] == "finished"
