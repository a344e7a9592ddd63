"""A run folder belongs to one process at a time: two of one name would overwrite each other."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path


@contextmanager
def claim(folder: Path, *, first: bool) -> Iterator[None]:
    """Make `folder` and hold it for as long as the block lasts; nothing to do but for the `first`
    rank. The system lets go of it when the process ends, however it ends.

    A folder that was made here and in which no run began (its models were not found, somebody
    stopped it while it loaded) goes when the block fails.

    Raises ValueError where the folder cannot be made, or another process holds it.
    """
    if not first:
        yield
        return
    fresh = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ValueError(
            f"the run folder {folder} cannot be used ({error.strerror}); give the run another name "
            "or mend that path"
        ) from None
    try:
        _lock(descriptor, folder)
        with _leaving_nothing(folder) if fresh else nullcontext():
            yield
    finally:
        os.close(descriptor)


@contextmanager
def _leaving_nothing(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if not has_begun(folder):
            shutil.rmtree(folder)
        raise


def has_begun(folder: Path) -> bool:
    """Whether the folder holds a line of metrics or a checkpoint: something to go on from."""
    return (folder / "metrics.jsonl").is_file() or (folder / "checkpoints").is_dir()


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{folder} is in use by another process; wait for that run, stop it, or give this one "
            "another name"
        ) from None
    except OSError:
        pass  # a network file system without locks: nothing to hold, and no reason not to train
