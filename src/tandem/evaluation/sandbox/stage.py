"""Stands between the caller and a program: sets the stage, waits, and clears it away.

Run as a process of its own with one argument, the descriptor that it reports to. It reads two parts
from its standard input: what the program may know, and, for a tested program, what only the judge
may. The program's process is made before the second part is read. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tandem.evaluation.sandbox import program, spaces
from tandem.evaluation.sandbox.judge import judge
from tandem.evaluation.sandbox.values import Line

_WATCHED = {signal.SIGCHLD, signal.SIGTERM}
_READY = b"ready"
# A process that cannot be ended within this time has a fault in the kernel's hands.
_SWEEP_SECONDS = 5.0


def main(report: int) -> None:
    """One run of a program, from the first part read to the last process gone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    spaces.ask_signal_at_parents_end(signal.SIGTERM)
    spaces.adopt_orphans()
    stage = Stage(report, _read_part())
    stage.run()


def _read_part() -> dict[str, Any]:
    """One part: eight bytes of length, then JSON; never a byte more than the part."""
    return json.loads(_read_exactly(int.from_bytes(_read_exactly(8), "big")))


def _read_exactly(count: int) -> bytes:
    read = bytearray()
    while len(read) < count:
        block = os.read(0, min(count - len(read), 1 << 20))
        if not block:
            raise EOFError("the caller has ended")
        read += block
    return bytes(read)


class Stage:
    """The processes of one run. part: what the program may know."""

    def __init__(self, report: int, part: dict[str, Any]) -> None:
        self.report = report
        self.part = part
        self.limits: dict[str, int] = part["limits"]
        self.privileges = spaces.privileges()

    def run(self) -> None:
        deadline = time.monotonic() + self.part["seconds"]
        source = self.part["source"]
        if not self.part["judged"]:
            entrance = _entrance(self.part["stdin"])
            player = self._keep(lambda: program.run_script(source), entrance=entrance)
            self._wait({player}, player, deadline)
            return
        ours, theirs = socket.socketpair()
        player = self._keep(lambda: _serve(theirs, source), kept=[theirs.fileno()])
        theirs.close()
        secret = _read_part()
        kept = [ours.fileno(), self.report]
        watched = self._keep(lambda: self._judge(ours, secret), kept=kept)
        ours.close()
        self._wait({player, watched}, watched, deadline)

    def _judge(self, connection: socket.socket, secret: dict[str, Any]) -> int:
        token = secret.pop("token")
        reason = judge(Line(connection), **secret)
        self._say(reason=reason) if reason else self._say(token=token)
        return 0

    def _say(self, **what: Any) -> None:
        os.write(self.report, json.dumps(what).encode() + b"\n")

    def _wait(self, alive: set[int], watched: int, deadline: float) -> None:
        """Until the watched process has ended or time is up; then nothing is left alive."""
        how, status = "ended", 0
        while watched in alive:
            told = signal.sigtimedwait(_WATCHED, max(0.0, deadline - time.monotonic()))
            if told is None or told.si_signo == signal.SIGTERM:
                how = "timeout" if told is None else "stopped"
                break
            for child in list(alive):
                found, code = os.waitpid(child, os.WNOHANG)
                if found:
                    alive.discard(child)
                    status = os.waitstatus_to_exitcode(code) if child == watched else status
        for child in alive:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
        _sweep()
        self._say(how=how, status=status)

    def _keep(
        self, play: Callable[[], int], *, kept: list[int] | None = None, entrance: int | None = None
    ) -> int:
        """A process that isolates itself, plays in a child and outlives it; its number.

        kept: descriptors the child keeps. entrance: its standard input, nothing unless said.
        """
        stage = os.getpid()
        keeper = os.fork()
        if keeper:
            return keeper
        try:
            spaces.ask_signal_at_parents_end(signal.SIGTERM)
            if os.getppid() != stage:
                raise ChildProcessError("the stage has ended")
            spaces.adopt_orphans()
            spaces.be_killed_first()
            proc = None
            if self.part["isolated"]:
                room = 4 * self.limits["file_mib"]
                proc = spaces.enter(
                    libraries=self.part["libraries"], memory_mib=room, privileges=self.privileges
                )
            hears, tells = os.pipe()
            child = os.fork()
            if not child:
                self._perform(play, kept or [], entrance, tells, proc)
            os.close(tells)
            said = os.read(hears, 1000)
            if said != _READY:
                self._say(fault=said.decode() or "the program's process did not start")
            status = _outlive(child)
        except BaseException as error:
            self._say(fault=str(error))
            status = 1
        os._exit(status)

    def _perform(
        self,
        play: Callable[[], int],
        kept: list[int],
        entrance: int | None,
        tells: int,
        proc: int | None,
    ) -> NoReturn:
        """In the last child: take the limits on, forget every other descriptor, and play."""
        try:
            nothing = os.open("/dev/null", os.O_RDWR)
            os.dup2(nothing if entrance is None else entrance, 0)
            os.dup2(nothing, 2)
            spaces.confine(self.limits, proc=proc, privileges=self.privileges)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            os.write(tells, _READY)
        except BaseException as error:
            os.write(tells, str(error).encode()[:1000])
            os._exit(1)
        lowest = 3
        for descriptor in [*sorted(kept), 1 << 20]:
            os.closerange(lowest, descriptor)
            lowest = descriptor + 1
        status = 1
        try:
            status = play()
        finally:
            # Nothing of the supervisor, of which this is a copy, may run on here.
            os._exit(status)


def _serve(connection: socket.socket, source: str) -> int:
    program.Server(Line(connection), source).run()
    return 0


def _entrance(text: str) -> int:
    """A file in memory that holds the text, read from its start."""
    file = os.memfd_create("input")
    with os.fdopen(os.dup(file), "wb") as writer:
        writer.write(text.encode("utf-8", "surrogatepass"))
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _outlive(child: int) -> int:
    """Wait for the child, end it when told to, and then all that it left; its exit status."""
    while True:
        if signal.sigwait(_WATCHED) == signal.SIGTERM:
            os.kill(child, signal.SIGKILL)
        found, code = os.waitpid(child, os.WNOHANG)
        if found:
            _sweep()
            status = os.waitstatus_to_exitcode(code)
            return status if status >= 0 else 128 - status


def _sweep() -> None:
    """End every child of this process: without namespaces, orphans of the program are adopted."""
    until = time.monotonic() + _SWEEP_SECONDS
    while time.monotonic() < until:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _parent(entry) == os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)
        time.sleep(0.002)


def _parent(process: Path) -> int:
    """The parent of a process by its folder in /proc; 0 where it has ended."""
    try:
        # The name in parentheses may hold anything, a closing parenthesis too.
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
