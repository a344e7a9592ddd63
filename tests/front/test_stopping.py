"""What a run that cannot go on leaves behind, and what it says: no folder, no half a file."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from tandem.cli import app
from tandem.front.demo import run_demo
from tandem.training.claim import claim

TINY = (
    "training.steps=2",
    "training.save_every=1",
    "rollout.prompts_per_step=2",
    "optimizer.warmup_steps=0",
    "evaluation=null",
    "name=tiny",
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell's job in the background inherits that Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _train(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["train", "arithmetic", *TINY, *arguments])
    return result.exit_code, result.stdout, result.stderr


def _left(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def _signalled(number: int) -> Callable[..., Any]:
    def instead(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), number)

    return instead


def test_a_model_that_is_not_there_leaves_no_run_folder() -> None:
    code, _, err = _train("student.path=/nope")
    assert (code, err) == (
        2,
        "tandem: the model folder '/nope' does not exist: check the path\n",
    )
    assert _left("runs") == []


def test_a_folder_goes_only_if_it_was_made_for_a_run_that_did_not_begin(tmp_path: Path) -> None:
    def fail(folder: Path, *files: str) -> None:
        with pytest.raises(ValueError, match="wrong"), claim(folder, first=True):
            for file in files:
                (folder / file).write_text("")
            raise ValueError("wrong")

    fail(tmp_path / "fresh", "config.yaml")
    fail(tmp_path / "begun", "config.yaml", "metrics.jsonl")
    (tmp_path / "old").mkdir()
    fail(tmp_path / "old", "config.yaml")
    assert _left(str(tmp_path)) == ["begun", "old"]


def test_who_comes_second_takes_nothing_from_who_came_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with claim(tmp_path / "run", first=True):
        # Both looked before either had made the folder.
        monkeypatch.setattr(Path, "exists", lambda path: False)
        with (
            pytest.raises(ValueError, match="is in use by another process"),
            claim(tmp_path / "run", first=True),
        ):
            pass
        assert (tmp_path / "run").is_dir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_models_load_ends_the_command_without_a_trace(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", _signalled(number))
    assert _train() == (0, "stopped before the first step; nothing was kept\n", "")
    assert _left("runs") == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_final_model_is_written_leaves_no_half_of_it(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PreTrainedModel.save_pretrained

    def interrupted(model: PreTrainedModel, folder: Path, **options: Any) -> None:
        write(model, folder, **options)
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", interrupted)
        code, out, err = _train()
    assert (code, out.splitlines()[-1], err) == (0, "stopped; go on with --resume: runs/tiny", "")
    assert "final" not in _left("runs/tiny")
    assert _train("--resume")[0] == 0
    assert "final" in _left("runs/tiny") and ".partial-final" not in _left("runs/tiny")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_demo_judges_is_answered_in_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", _signalled(number))
    assert run_demo(Path("demo"), console=Console(width=80)) is None
    assert capsys.readouterr().out == "stopped; nothing was kept\n"
    assert not Path("demo").exists()


def test_a_demo_that_is_refused_leaves_no_folder() -> None:
    with pytest.raises(ValueError, match="the model folder '/nope' does not exist"):
        run_demo(Path("demo"), overrides=["teacher.path=/nope"])
    assert not Path("demo").exists()


def test_ctrl_c_elsewhere_is_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", _signalled(signal.SIGINT))
    result = CliRunner().invoke(app, ["eval", "embedded:student", "--task", "arithmetic"])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "tandem: stopped\n")


@contextmanager
def _no_room(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The second checkpoint meets a full disk."""
    write, calls = torch.save, []

    def full(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if Path("runs/tiny/checkpoints/step-000001").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        yield "No space left on device"
    assert calls, "checkpoints are written by torch.save"


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _no_room(monkeypatch):
        code, _, err = _train()
    assert (code, err) == (
        2,
        "tandem: cannot write the checkpoint in runs/tiny/checkpoints (No space left on device): "
        "make room there and go on with --resume; what was saved before stays\n",
    )
    assert _left("runs/tiny/checkpoints") == ["step-000001"]
    assert _train("--resume")[0] == 0
    assert "step-000002" in _left("runs/tiny/checkpoints")


def test_a_checkpoint_of_which_the_system_takes_a_part_is_the_same_sentence() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        code, _, err = _train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    assert err.startswith("tandem: cannot write the checkpoint in runs/tiny/checkpoints (")
    assert _left("runs/tiny/checkpoints") == []


def test_a_full_disk_at_the_final_model_leaves_no_half_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = PreTrainedModel.save_pretrained

    def full(model: PreTrainedModel, folder: Path, **options: Any) -> None:
        write(model, folder, **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", full)
        code, _, err = _train()
    assert (code, err) == (
        2,
        "tandem: cannot write the final model in runs/tiny (No space left on device): make room "
        "there and go on with --resume; what was saved before stays\n",
    )
    assert not [name for name in _left("runs/tiny") if "final" in name]
    assert _train("--resume")[0] == 0 and "final" in _left("runs/tiny")


def test_an_old_final_model_is_never_half_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _train()[0] == 0
    remove, whole = shutil.rmtree, _left("runs/tiny/final")

    def interrupted(folder: Path, **options: Any) -> None:
        if "final" in Path(folder).name and not Path(folder).name.startswith(".partial-final"):
            next(path for path in Path(folder).iterdir() if path.is_file()).unlink()
            raise KeyboardInterrupt
        remove(folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted)
        assert _train("--resume")[0] == 0
    assert _left("runs/tiny/final") == whole
    assert _train("--resume")[0] == 0
    assert [name for name in _left("runs/tiny") if "final" in name] == ["final"]
