"""Jobs for the tests of the runner: functions of a module, which other processes can import."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tandem.studies.runner import Tell


def double(what: int, tell: Tell) -> dict[str, Any]:
    tell(what)
    return {"twice": 2 * what, "process": os.getpid(), "slot": os.environ.get("TANDEM_SLOT")}


def meet(what: tuple[str, str], tell: Tell) -> None:
    """Ends only where the other one is under way too."""
    own, other = map(Path, what)
    own.write_text("")
    while not other.exists():
        time.sleep(0.01)


def refuse(what: str, tell: Tell) -> None:
    raise ValueError(what)


def refuse_after(what: tuple[str, str], tell: Tell) -> None:
    """Refuses once the file is there."""
    while not Path(what[0]).exists():
        time.sleep(0.01)
    raise ValueError(what[1])


def fail(what: int, tell: Tell) -> float:
    return 1 / what


def die(what: int, tell: Tell) -> None:
    os._exit(what)


class Deadly:
    """What a process does not survive being given."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def wait_and_save(what: str, tell: Tell) -> None:
    """What a run in training does when it is asked to stop: it finishes, saves, and leaves."""
    try:
        tell("waiting")
        time.sleep(60)
    except KeyboardInterrupt:
        for _ in range(100):
            tell("still saving")
        Path(what).write_text("saved")
        raise
