"""Answers compared by math-verify in worker processes that can be killed.

math-verify limits itself with SIGALRM, which works in a main thread only and cannot interrupt
arithmetic on huge integers. So it runs in the main thread of fresh interpreters, and each
comparison has an outer limit in wall time, after which its worker is killed and replaced.
The workers are plain subprocesses: nothing of the caller is forked or imported again, so a script
needs no `if __name__ == "__main__"` guard. POSIX only.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

ANTLR = "4.13.2"
# Answers in the evaluation sets have at most 210 characters; longer text is no answer to compare.
MAX_ANSWER_LENGTH = 2_000
_CACHED = 200_000
_START_SECONDS = 120.0
_WORKER = Path(__file__).with_name("grading_worker.py")

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`correct`: the answer equals the reference. `reason`: empty, or what kept them from being
    compared: "timeout", "too long", "unreadable", "unreadable reference", "not comparable",
    "worker died"."""

    correct: bool
    reason: str = ""


def check_antlr(found: str) -> None:
    """Refuse the versions of antlr's runtime with which math-verify reads answers wrongly."""
    if found != ANTLR:
        raise ValueError(
            f"antlr4-python3-runtime is {found}, with which math-verify misreads answers such as "
            f"50\\%; install antlr4-python3-runtime=={ANTLR}"
        )


class _Worker:
    """One child process: starting, idle, or busy with `pair` until `deadline`."""

    def __init__(self, limit_seconds: float) -> None:
        self.limit_seconds = limit_seconds
        # -P keeps this folder off the child's path, where our math.py would hide the library's.
        command = [sys.executable, "-P", "-W", "ignore", str(_WORKER), str(limit_seconds)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.ready = False
        self.pair: Pair | None = None
        self.deadline = time.monotonic() + _START_SECONDS
        self._received = b""

    def fileno(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    @property
    def waiting(self) -> bool:
        """Whether something is expected of it: a verdict, or that it is ready."""
        return self.pair is not None or not self.ready

    def send(self, pair: Pair) -> bool:
        """Hand over one comparison; False where the process is gone."""
        assert self.process.stdin is not None and not self.waiting
        try:
            self.process.stdin.write(json.dumps(pair).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return False
        self.pair = pair
        self.deadline = time.monotonic() + self.limit_seconds
        return True

    def receive(self) -> str | None:
        """A complete line, "" while one is under way, or None where the process has ended."""
        chunk = os.read(self.fileno(), 65536)
        if not chunk:
            return None
        self._received += chunk
        if not self._received.endswith(b"\n"):
            return ""
        line, self._received = self._received.decode(), b""
        return line.strip()

    def stop(self, *, kill: bool) -> None:
        """End the process: at once, or by ending its input and a second's patience."""
        assert self.process.stdin is not None and self.process.stdout is not None
        if kill:
            self.process.kill()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it ended with part of a request unread
        try:
            self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def _stop_all(workers: list[_Worker], owner: int) -> None:
    # A fork of the owner inherits the finaliser, but the workers are not its own.
    if os.getpid() == owner:
        while workers:
            worker = workers.pop()
            worker.stop(kill=worker.waiting)


class GradingPool:
    """`workers` processes at most, started when there is work for them.

    limit_seconds: wall time of one comparison, after which its worker is killed and the answer
    counts as wrong. Verdicts are remembered by (gold, answer), timeouts too.
    """

    def __init__(self, *, workers: int, limit_seconds: float) -> None:
        if workers < 1 or limit_seconds <= 0:
            raise ValueError(
                f"grading with {workers} workers and a limit of {limit_seconds} s is impossible; "
                "give at least one worker and a positive limit"
            )
        check_antlr(version("antlr4-python3-runtime"))
        self.size = workers
        self.limit_seconds = limit_seconds
        self._workers: list[_Worker] = []
        self._verdicts: dict[Pair, Verdict] = {}
        self._lock = threading.Lock()
        # Runs when the pool is collected and, after Ctrl-C too, when the interpreter exits.
        self.close = weakref.finalize(self, _stop_all, self._workers, os.getpid())

    def __enter__(self) -> GradingPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that exist now."""
        return [worker.process.pid for worker in self._workers]

    def grade(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """A verdict for each (gold, answer), in order.

        Raises RuntimeError where a worker cannot be started.
        """
        assert self.close.alive, "the pool is closed"
        with self._lock:
            # The cache may forget while this call runs, so what it needs is taken out first.
            known = {pair: self._verdicts.get(pair) for pair in pairs}
            found = {pair: verdict for pair, verdict in known.items() if verdict is not None}
            new = [pair for pair, verdict in known.items() if verdict is None]
            for pair in new:
                if len(pair[1]) > MAX_ANSWER_LENGTH:
                    found[pair] = Verdict(correct=False, reason="too long")
            try:
                self._work(deque(pair for pair in new if pair not in found), found)
            finally:
                # After an interruption no later call may read this call's answers.
                self._discard([w for w in self._workers if w.waiting])
            self._remember(new, found)
        return [found[pair] for pair in pairs]

    def _remember(self, new: Iterable[Pair], found: dict[Pair, Verdict]) -> None:
        for pair in new:
            self._verdicts[pair] = found[pair]
        while len(self._verdicts) > _CACHED:
            del self._verdicts[next(iter(self._verdicts))]

    def _work(self, todo: deque[Pair], found: dict[Pair, Verdict]) -> None:
        while todo or any(w.pair is not None for w in self._workers):
            busy = sum(w.waiting for w in self._workers)
            while len(self._workers) < min(self.size, busy + len(todo)):
                self._workers.append(_Worker(self.limit_seconds))
            for worker in [w for w in self._workers if not w.waiting]:
                if todo and worker.send(todo[0]):
                    todo.popleft()
                elif todo:
                    self._discard([worker])
            self._listen(found)

    def _listen(self, found: dict[Pair, Verdict]) -> None:
        """Wait for the next reply or the next deadline, and take in all that is due."""
        waiting = [w for w in self._workers if w.waiting]
        with selectors.DefaultSelector() as selector:
            for worker in waiting:
                selector.register(worker, selectors.EVENT_READ)
            patience = min((w.deadline for w in waiting), default=0.0) - time.monotonic()
            heard = [key.fileobj for key, _ in selector.select(max(0.0, patience))]
        for worker in waiting:
            if worker in heard:
                self._take(worker, worker.receive(), found)
            elif time.monotonic() >= worker.deadline:
                self._lose(worker, "timeout", found)

    def _take(self, worker: _Worker, line: str | None, found: dict[Pair, Verdict]) -> None:
        if line is None:
            self._lose(worker, "worker died", found)
        elif line and worker.pair is None:
            assert line == "ready", f"a worker began with {line!r}"
            worker.ready = True
        elif line and worker.pair is not None:
            correct, reason = json.loads(line)
            found[worker.pair] = Verdict(correct=correct, reason=reason)
            worker.pair = None

    def _lose(self, worker: _Worker, reason: str, found: dict[Pair, Verdict]) -> None:
        pair = worker.pair
        self._discard([worker])
        if pair is None:
            raise RuntimeError(
                f"a grading worker did not start ({reason}); to see why, run "
                f"{sys.executable} -P {_WORKER} 10"
            )
        found[pair] = Verdict(correct=False, reason=reason)

    def _discard(self, workers: Iterable[_Worker]) -> None:
        for worker in workers:
            self._workers.remove(worker)
            worker.stop(kill=True)


@lru_cache(maxsize=None)
def shared_pool(*, workers: int, limit_seconds: float) -> GradingPool:
    """The one pool of this process with these settings; it ends with the process."""
    return GradingPool(workers=workers, limit_seconds=limit_seconds)
