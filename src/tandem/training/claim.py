"""A run folder belongs to one process at a time: two of one name would overwrite each other."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def claim(folder: Path, *, first: bool) -> Iterator[None]:
    """Make `folder` and hold it for as long as the block lasts; nothing to do but for the `first`
    rank. The system lets go of it when the process ends, however it ends.

    Raises ValueError where the folder cannot be made, or another process holds it.
    """
    if not first:
        yield
        return
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
        yield
    finally:
        os.close(descriptor)


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
