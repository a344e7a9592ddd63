"""Running a program as the suites do, and looking for what it left behind."""

from __future__ import annotations

import time
from pathlib import Path

from tandem.evaluation.sandbox import Checks, Limits, Outcome, Program, Sandbox

# For what goes on until it is stopped, and for the rest on a busy machine.
SECONDS, PATIENT = 2.0, 30.0
CHECKS = Checks("assert answer() == 42", ("answer",))
RIGHT = "\ndef answer(): return 42\n"
WRONG = "\ndef answer(): return 0\n"


def judged(source: str, checks: Checks = CHECKS, **limits: float) -> Outcome:
    chosen = Limits(**{"seconds": PATIENT, **limits})  # pyright: ignore[reportArgumentType]
    return Sandbox(chosen).run_many([Program(source, checks)])[0]


def printed(source: str, **limits: float) -> Outcome:
    """As a script, which tells what it found."""
    chosen = Limits(**{"seconds": PATIENT, **limits})  # pyright: ignore[reportArgumentType]
    return Sandbox(chosen).run_many([Program(source)])[0]


def processes_with(word: str) -> list[str]:
    """Processes whose memory of their own name holds the word, or that still run as nobody."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if word in (entry / "comm").read_text():
                found.append(entry.name)
        except OSError:
            continue
    return found


def named(word: str) -> str:
    """Source that gives its process that name, which its children inherit."""
    return f"import ctypes; ctypes.CDLL(None).prctl(15, b'{word}', 0, 0, 0)\n"


def gone(word: str) -> bool:
    until = time.monotonic() + 5.0
    while processes_with(word) and time.monotonic() < until:
        time.sleep(0.02)
    return not processes_with(word)
