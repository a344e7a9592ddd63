"""Checkpoints: whole or not there, whatever happens while they are written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kill_points import fill, model_and_optimizer, save, values
from torch import nn
from torch.optim import AdamW

from tandem.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint, sweep
from tandem.training.parallel import open_world

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One entry per file operation of a save that a process was killed before; the last lived."""
    script = Path(__file__).with_name("kill_points.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path_factory.mktemp("kills"))],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_kill_9_at_any_point_of_a_checkpoint_leaves_a_loadable_one(
    kills: list[dict[str, Any]],
) -> None:
    assert len(kills) > 10, "too few points to prove anything"
    assert [k["killed"] for k in kills] == [True] * (len(kills) - 1) + [False]
    for kill in kills:
        # Whole: weights and all of the optimiser's state come from one and the same step.
        assert kill["values"] == [float(kill["step"])]
        assert kill["after"] == ["step-000003"], "the debris is gone with the next checkpoint"


def test_a_checkpoint_counts_from_its_renaming_on(kills: list[dict[str, Any]]) -> None:
    steps = [kill["step"] for kill in kills]
    assert steps == sorted(steps) and set(steps) == {1, 2}
    for kill in kills[:-1]:
        assert ("step-000002" in kill["left"]) == (kill["step"] == 2)
        assert any(name.startswith(".partial-") for name in kill["left"]) or kill["left"] in (
            ["step-000001"],
            ["step-000001", "step-000002"],
        )


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    with open_world(CPU) as world:
        student, optimizer = model_and_optimizer(world)
        for step in (8, 9, 10, 11):
            save_checkpoint(
                tmp_path, student=student, optimizer=optimizer, step=step, keep_last=2, world=world
            )
        assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000010", "step-000011"]


def test_loading_restores_every_number_in_place(tmp_path: Path) -> None:
    with open_world(CPU) as world:
        student, optimizer = model_and_optimizer(world)
        save(tmp_path, student, optimizer, world, 5)
        fill(student, optimizer, -1.0)
        weight = next(iter(student.parameters()))
        step = load_checkpoint(
            tmp_path / "step-000005", student=student, optimizer=optimizer, world=world
        )
        assert step == 5 and values(student, optimizer) == {5.0}
        assert next(iter(student.parameters())) is weight


def test_an_unfinished_folder_is_ignored_and_swept(tmp_path: Path) -> None:
    (tmp_path / ".partial-step-000009").mkdir()
    (tmp_path / ".partial-step-000009" / "__0_0.distcp").write_text("half")
    assert list_checkpoints(tmp_path) == []
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    with open_world(CPU) as world:
        student, optimizer = model_and_optimizer(world)
        save(tmp_path, student, optimizer, world, 1)
        other = nn.Sequential(nn.Linear(8, 16))
        with pytest.raises(ValueError, match=r"belongs to another model: 'mean\.1\.bias' is only"):
            load_checkpoint(
                tmp_path / "step-000001",
                student=other,
                optimizer=AdamW(other.parameters()),
                world=world,
            )
