"""Runs programs that nobody has read, many at a time, so that none can do harm.

Each program has an interpreter, a user, a network, a process tree and a file system of its own
(spaces.py), and limits on time, memory, files and processes. A tested program does not share an
interpreter with its tests (judge.py): it answers the tests' calls with plain values, and only the
judge holds the token by which the caller knows that the tests passed.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import selectors
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tandem.evaluation.sandbox.forms import Checks, Limits, Outcome, Program

# Seconds beyond the limit in which the stage must have cleared everything away.
_GRACE = 30.0
_ATTEMPTS = 3
_HERE = Path(__file__).parent
# Only these modules, without what their packages import; the settings of `python -I`, but for the
# environment, whose one variable makes sets of strings iterate alike in every run.
_BOOT = """
import sys, types
folder, report = sys.argv[1], int(sys.argv[2])
for name in ("tandem", "tandem.evaluation", "tandem.evaluation.sandbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from tandem.evaluation.sandbox.stage import main
main(report)
"""
_FLAGS = ("-s", "-P", "-S", "-X", "utf8", "-c", _BOOT, str(_HERE))
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
_ADVICE = "allow_unisolated=True runs programs with limits on time and memory alone"


@dataclass(frozen=True, slots=True)
class Isolation:
    """Whether programs are isolated on this machine, and, where not, what the kernel refused."""

    holds: bool
    refused: str = ""


class SandboxError(RuntimeError):
    """The sandbox itself failed; no program is to blame."""


@cache
def isolation() -> Isolation:
    """What holds here, found out by one run. Raises ValueError where this is no Linux."""
    if sys.platform != "linux":
        raise ValueError(
            f"programs are run on Linux only, and this is {sys.platform}: leave suites of code out"
        )
    try:
        _probe(isolated=True)
    except SandboxError as error:
        return Isolation(False, str(error))
    return Isolation(True)


@cache
def _probe(*, isolated: bool) -> None:
    """Raises SandboxError where a right program does not pass."""
    source = "import decimal, heapq, sqlite3\ndef double(x): return 2 * x"
    program = Program(source, Checks("assert double(21) == 42", ("double",)))
    outcome = _run(program, Limits(seconds=60.0), isolated=isolated)
    if not outcome.passed:
        raise SandboxError(f"a program that is right did not pass its test: {outcome.reason}")


class Sandbox:
    """Runs programs in `workers` at a time.

    allow_unisolated: run them where the kernel allows no isolation too.
    """

    def __init__(
        self, limits: Limits | None = None, *, workers: int = 2, allow_unisolated: bool = False
    ) -> None:
        self.limits = limits or Limits()
        self.workers = workers
        self.allow_unisolated = allow_unisolated

    def isolated(self) -> bool:
        """Whether programs will be. Raises ValueError where they cannot be and must."""
        found = isolation()
        if not found.holds and not self.allow_unisolated:
            raise ValueError(
                f"programs cannot be isolated here ({found.refused}), and a model's program may do "
                f"anything: run where user namespaces are allowed; {_ADVICE}"
            )
        if not found.holds:
            _probe(isolated=False)
        return found.holds

    def run_many(
        self,
        programs: Sequence[Program],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Outcome]:
        """One outcome per program, in order; equal programs run once.

        progress: told how many distinct ones are done, of how many. Raises ValueError as
        `isolated`, SandboxError where the machine fails.
        """
        isolated = self.isolated()
        distinct = list(dict.fromkeys(programs))
        found: dict[Program, Outcome] = {}
        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            waiting = {
                pool.submit(_run_patiently, program, self.limits, isolated=isolated): program
                for program in distinct
            }
            try:
                for future in as_completed(waiting):
                    found[waiting[future]] = future.result()
                    if progress is not None:
                        progress(len(found), len(distinct))
            finally:
                for future in waiting:
                    future.cancel()
        return [found[program] for program in programs]


@cache
def _libraries() -> tuple[str, ...]:
    """Folders that the interpreter and its extension modules are loaded from."""
    # Those of the interpreter itself, not of a virtual environment made with it.
    own = os.path.join(sys.base_exec_prefix, sys.platlibdir)
    libraries = sysconfig.get_config_var("LIBDIR") or own
    paths = {sysconfig.get_path("stdlib"), own, libraries, "/usr/share/zoneinfo"}
    paths |= {"/usr/lib", "/usr/lib64", "/lib", "/lib64"}
    kept: list[str] = []
    # Parents come before what lies in them.
    for path in sorted(filter(os.path.exists, paths)):
        if not any(path.startswith(parent + "/") for parent in kept):
            kept.append(path)
    return tuple(kept)


def _run_patiently(program: Program, limits: Limits, *, isolated: bool) -> Outcome:
    """A machine that is short of memory or processes for a moment is asked again."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return _run(program, limits, isolated=isolated)
        except SandboxError:
            time.sleep(1.0)
    return _run(program, limits, isolated=isolated)


def _run(program: Program, limits: Limits, *, isolated: bool) -> Outcome:
    limited = asdict(limits)
    part = {
        "source": program.source,
        "stdin": program.stdin,
        "judged": program.tests is not None,
        "seconds": limited.pop("seconds"),
        "isolated": isolated,
        "libraries": _libraries(),
        "limits": limited,
    }
    token = secrets.token_hex(32)
    parts = [part]
    if program.tests is not None:
        tests = program.tests
        parts.append(
            {"token": token, "before": tests.before, "names": tests.names, "tests": tests.source}
        )
    printed, report = _play(parts, limits)
    if "fault" in report or (isolated and "how" not in report):
        raise SandboxError(report.get("fault", "a run ended without a report"))
    return _outcome(program, printed, report, token, output=limits.output_mib << 20)


def _play(parts: list[dict[str, Any]], limits: Limits) -> tuple[bytes, dict[str, Any]]:
    """Run the stage; what the script printed, and the report."""
    read_end, write_end = os.pipe()
    with (
        # A program that is not isolated starts there; the others never see it.
        tempfile.TemporaryDirectory(prefix="tandem-", ignore_cleanup_errors=True) as folder,
        os.fdopen(read_end, "rb") as report,
        subprocess.Popen(
            [sys.executable, *_FLAGS, str(write_end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if len(parts) == 1 else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd=folder,
            pass_fds=(write_end,),
            start_new_session=True,
        ) as process,
    ):
        os.close(write_end)
        os.chmod(folder, 0o777)
        assert process.stdin is not None
        try:
            for part in parts:
                text = json.dumps(part).encode()
                process.stdin.write(len(text).to_bytes(8, "big") + text)
            process.stdin.flush()
        except BrokenPipeError:  # a stage that has ended says why, or the outcome does
            pass
        try:
            printed, lines = _collect(process, report.fileno(), limits)
        finally:
            process.kill()
    said: dict[str, Any] = {}
    for line in lines.splitlines():
        said |= json.loads(line)
    return printed, said


def _collect(process: subprocess.Popen[bytes], report: int, limits: Limits) -> tuple[bytes, bytes]:
    """Read both channels to their ends; a flood of output ends the run."""
    read: dict[str, bytearray] = {"printed": bytearray(), "report": bytearray()}
    until = time.monotonic() + limits.seconds + _GRACE
    with selectors.DefaultSelector() as selector:
        selector.register(report, selectors.EVENT_READ, "report")
        if process.stdout is not None:
            selector.register(process.stdout, selectors.EVENT_READ, "printed")
        while selector.get_map():
            ready = selector.select(timeout=until - time.monotonic())
            if time.monotonic() > until:
                raise SandboxError(f"a run did not end {_GRACE:.0f} s after its limit")
            for key, _ in ready:
                block = os.read(key.fd, 1 << 16)
                read[key.data] += block
                flooded = key.data == "printed" and len(read["printed"]) > limits.output_mib << 20
                if flooded:
                    process.terminate()
                if flooded or not block:
                    selector.unregister(key.fileobj)
    return bytes(read["printed"]), bytes(read["report"])


def _outcome(
    program: Program, printed: bytes, said: dict[str, Any], token: str, *, output: int
) -> Outcome:
    stdout = printed[:output].decode(errors="replace")
    if program.tests is not None:
        right = hmac.compare_digest(str(said.get("token", "")), token)
        timeout = "timeout" if said.get("how") == "timeout" else ""
        return Outcome(right, "" if right else timeout or said.get("reason", "crashed"))
    if len(printed) > output:
        return Outcome(False, "too much output", stdout)
    if said.get("how") != "ended":
        return Outcome(False, said.get("how", "crashed"), stdout)
    status = said["status"]
    return Outcome(status == 0, f"exit status {status}" if status else "", stdout)
