"""Checkpoints that are whole or not there: written beside their place, then renamed into it.

checkpoints/step-000120/ holds the student's fp32 weights and AdamW's state by
torch.distributed.checkpoint, each rank its shards, and state.json. A folder whose name begins with
a dot was never finished, or is half deleted; it is ignored and swept away.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint import filesystem, state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.optim import Optimizer

from tandem.training.optimizer import allocate_state
from tandem.training.parallel import World

_PREFIX = "step-"
_PARTIAL = ".partial-"


def save_checkpoint(
    checkpoints: Path,
    *,
    student: nn.Module,
    optimizer: Optimizer,
    step: int,
    keep_last: int,
    world: World,
) -> Path:
    """Write the state after `step` steps and delete all but the `keep_last` newest. Collective.

    Returns the folder. Whatever happens on the way, the folders named step-… are whole.
    Raises ValueError where the disk does not take it.
    """
    with refused_writes("checkpoint", checkpoints, "go on with --resume"):
        try:
            return _save(checkpoints, student, optimizer, step, keep_last, world)
        except (OSError, CheckpointException):
            # Half a checkpoint is of no use, and it may be what fills the disk.
            if world.first:
                sweep(checkpoints)
            raise


def _save(
    checkpoints: Path,
    student: nn.Module,
    optimizer: Optimizer,
    step: int,
    keep_last: int,
    world: World,
) -> Path:
    final = checkpoints / f"{_PREFIX}{step:06d}"
    partial = checkpoints / f"{_PARTIAL}{final.name}"
    if world.first:
        checkpoints.mkdir(parents=True, exist_ok=True)
        sweep(checkpoints)
        partial.mkdir()
    world.barrier()
    # The writer syncs each of its files to disk before it returns.
    state_dict_saver.save(_state(student, optimizer), checkpoint_id=partial)
    world.barrier()
    if world.first:
        write_synced(partial / "state.json", json.dumps({"step": step}))
        sync_folder(partial)
        if final.exists():
            _remove(final)
        partial.rename(final)
        sync_folder(checkpoints)
        for old in list_checkpoints(checkpoints)[:-keep_last]:
            _remove(old)
    world.barrier()
    return final


def load_checkpoint(
    checkpoint: Path, *, student: nn.Module, optimizer: Optimizer, world: World
) -> int:
    """Read `checkpoint` into the student and the optimiser, in place; the step it was taken at.

    Any number of ranks may read what any other number wrote. Raises ValueError where the
    checkpoint belongs to another model.
    """
    state = _state(student, optimizer)
    known = set(filesystem.FileSystemReader(checkpoint).read_metadata().state_dict_metadata)
    wanted = {f"{part}.{name}" for part, tensors in state.items() for name in tensors}
    if known != wanted:
        name = sorted(known ^ wanted)[0]
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} belongs to another model: {name!r} is only in "
            f"{'it' if name in known else 'the student'}; give the run another name"
        )
    state_dict_loader.load(state, checkpoint_id=checkpoint)
    world.barrier()
    return int(json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["step"])


@contextmanager
def refused_writes(what: str, folder: Path, then: str) -> Iterator[None]:
    """Say in one sentence that `folder` did not take `what`, and what to do `then`: a full disk, a
    quota, a missing right."""
    try:
        yield
    except (OSError, SafetensorError, CheckpointException) as error:
        reason = _refusal(error)
        if reason is None:
            raise
        raise ValueError(
            f"cannot write the {what} in {folder} ({reason}): make room there and {then}; what was "
            "saved before stays"
        ) from error


def _refusal(error: BaseException) -> str | None:
    """What the system said, however deep it lies; None where it was something else."""
    if isinstance(error, CheckpointException):
        found = (_refusal(exception) for exception, _ in error.failures.values())
        return next((reason for reason in found if reason is not None), None)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, SafetensorError):
        return os.strerror(errno.ENOSPC) if f"code: {errno.ENOSPC}" in str(error) else None
    # PyTorch's archive writer counts what the system took and keeps its reason to itself.
    return "only a part of it was taken" if "inline_container" in str(error) else None


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """The finished checkpoints, oldest first."""
    return sorted(checkpoints.glob(f"{_PREFIX}*"), key=lambda path: int(path.name[len(_PREFIX) :]))


def sweep(checkpoints: Path) -> None:
    """Delete what an interrupted save or deletion left behind."""
    for partial in checkpoints.glob(f"{_PARTIAL}*"):
        shutil.rmtree(partial)


def write_synced(path: Path, text: str) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the folder's entries (creations and renames) are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    # Renamed first: a deletion that is cut short must not leave half a checkpoint by that name.
    doomed = folder.with_name(f"{_PARTIAL}old-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _state(student: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """The tensors of a run by part and parameter name; they are the live ones, not copies."""
    allocate_state(optimizer)
    state: dict[str, dict[str, Tensor]] = {"weight": {}, "step": {}, "mean": {}, "square": {}}
    for name, parameter in student.named_parameters():
        moments = optimizer.state[parameter]
        state["weight"][name] = parameter.detach()
        state["step"][name] = moments["step"]
        state["mean"][name] = moments["exp_avg"]
        state["square"][name] = moments["exp_avg_sq"]
        assert torch.is_tensor(moments["step"])
    return state
