"""What is run, with what, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use: `seconds` of the clock, for program and tests together;
    cpu_seconds, memory_mib, file_mib (a file's size; a quarter of all that is written),
    open_files and processes (threads count), for the program and for its tests each;
    output_mib of what a script prints."""

    seconds: float = 10.0
    cpu_seconds: int = 20
    memory_mib: int = 1024
    file_mib: int = 16
    open_files: int = 64
    processes: int = 8
    output_mib: int = 4


@dataclass(frozen=True, slots=True)
class Checks:
    """What a program must pass: `source` that raises where it does not.

    names: what the program defines and the tests use. before: source whose names the tests may
    use too. Both sources are trusted to be honest, and run isolated all the same.
    """

    source: str
    names: tuple[str, ...]
    before: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """A source to run: with `tests` as a module, without as a script that reads `stdin`."""

    source: str
    tests: Checks | None = None
    stdin: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """passed: the tests passed, or the script ended by itself with status 0. reason: why not
    ("wrong answer", "timeout", "error: TypeError", ...). stdout: what a script printed."""

    passed: bool
    reason: str = ""
    stdout: str = ""
