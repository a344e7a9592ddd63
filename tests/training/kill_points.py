"""Kill -9 a process at every file operation of its second checkpoint; look at what is left.

Run as a script by test_checkpoint.py, with an empty folder: prints one JSON object per kill.
Children are forked before anything starts a thread.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from tandem.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint, sweep
from tandem.training.optimizer import allocate_state
from tandem.training.parallel import World, open_world, shard

WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def model_and_optimizer(world: World) -> tuple[nn.Module, AdamW]:
    student = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))
    shard(student, layers=[], whole=None, compute_dtype=torch.float32, world=world)
    optimizer = AdamW(student.parameters())
    allocate_state(optimizer)
    return student, optimizer


@torch.no_grad()
def fill(student: nn.Module, optimizer: AdamW, value: float) -> None:
    for parameter in student.parameters():
        parameter.fill_(value)
        for state in optimizer.state[parameter].values():
            state.fill_(value)


def values(student: nn.Module, optimizer: AdamW) -> set[float]:
    """Every number that the state holds."""
    found: set[float] = set()
    for parameter in student.parameters():
        for tensor in (parameter, *optimizer.state[parameter].values()):
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            found |= set(whole.detach().flatten().tolist())
    return found


def save(folder: Path, student: nn.Module, optimizer: AdamW, world: World, step: int) -> None:
    fill(student, optimizer, float(step))
    save_checkpoint(
        folder, student=student, optimizer=optimizer, step=step, keep_last=1, world=world
    )


def child(folder: Path, kill_at: int) -> None:
    """Save step 1, then step 2 with a SIGKILL before its file operation number `kill_at`."""
    with open_world(torch.device("cpu")) as world:
        student, optimizer = model_and_optimizer(world)
        save(folder, student, optimizer, world, 1)
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in WATCHED and str(folder) in str(arguments[0]):
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.addaudithook(hook)
        save(folder, student, optimizer, world, 2)
    os._exit(0)


def inspect(folder: Path, world: World) -> dict[str, Any]:
    """What a later session finds, loads, and can do."""
    left = sorted(path.name for path in folder.iterdir())
    student, optimizer = model_and_optimizer(world)
    sweep(folder)
    found = list_checkpoints(folder)
    step = load_checkpoint(found[-1], student=student, optimizer=optimizer, world=world)
    loaded = sorted(values(student, optimizer))
    save(folder, student, optimizer, world, 3)
    after = sorted(path.name for path in folder.iterdir())
    return {"left": left, "step": step, "values": loaded, "after": after}


def main(root: Path) -> None:
    folders: list[tuple[Path, bool]] = []
    for kill_at in range(1000):
        folder = root / f"kill-{kill_at}"
        process = os.fork()
        if process == 0:
            child(folder, kill_at)
        _, status = os.waitpid(process, 0)
        killed = os.WIFSIGNALED(status)
        folders.append((folder, killed))
        if not killed:
            break
    with open_world(torch.device("cpu")) as world:
        for folder, killed in folders:
            print(json.dumps({"killed": killed} | inspect(folder, world)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
