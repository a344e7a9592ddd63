"""A pool of grading processes that no answer can hang or harm.

Workers are separate interpreters that talk in JSON lines: they never import torch or the caller's
`__main__`, and a script that grades needs no `if __name__ == "__main__"` guard.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tandem.tasks.grading_worker import check_antlr

# Longest answer worth parsing; a number, a tuple or a formula is far shorter.
LONGEST = 1_000
START_SECONDS = 120.0
# A process may be killed while it starts (memory is short, say); one that never starts is a fault.
START_ATTEMPTS = 3
# A box opening, an escaped character (`\{` need not be paired), or a brace.
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer equals the gold, and why it could not be told ("timeout", ...)."""

    right: bool
    reason: str = ""


class _Worker:
    """One process, one question at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tandem.tasks.grading_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Its own session: Ctrl-C is the trainer's to handle, and end of input ends a worker.
            start_new_session=True,
        )
        self.ready = False
        self.question: tuple[str, str] | None = None
        self.deadline = time.monotonic() + START_SECONDS
        self._partial = b""

    @property
    def pipe(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def ask(self, question: tuple[str, str], *, limit: int, patience: float) -> bool:
        """Hand over a question; False where the process is already dead."""
        gold, answer = question
        line = json.dumps({"gold": gold, "answer": answer, "limit": limit}) + "\n"
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            return False
        self.question, self.deadline = question, time.monotonic() + patience
        return True

    def read(self) -> dict[str, object] | None:
        """The reply, None while it is incomplete. Raises EOFError when the process has died."""
        block = os.read(self.pipe, 65536)
        if not block:
            raise EOFError
        self._partial += block
        if not self._partial.endswith(b"\n"):
            return None
        reply, self._partial = json.loads(self._partial), b""
        return reply

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # a question its reader never took
                    continue


class GradingPool:
    """Grades (gold, answer) pairs by math-verify in `workers` processes.

    limit: whole seconds that parsing and comparing may take each; a worker that outlasts three
    times that is killed and replaced, and its answer is wrong. Verdicts are cached.
    """

    def __init__(self, *, workers: int = 2, limit: int = 3) -> None:
        check_antlr()
        self.limit = limit
        self.size = workers
        self.replaced = 0
        self._failed_starts = 0
        self._workers: list[_Worker] = []
        self._cache: dict[tuple[str, str], Verdict] = {}
        atexit.register(self.close)

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """One verdict per pair, in order."""
        short = [pair for pair in pairs if len(pair[1]) <= LONGEST]
        waiting = deque(dict.fromkeys(pair for pair in short if pair not in self._cache))
        while len(self._workers) < min(self.size, len(waiting)):
            self._workers.append(_Worker())
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.pipe, selectors.EVENT_READ, worker)
            while waiting or any(worker.question for worker in self._workers):
                self._round(selector, waiting)
        return [
            self._cache[pair] if len(pair[1]) <= LONGEST else Verdict(False, "too long")
            for pair in pairs
        ]

    def close(self) -> None:
        """End the workers; the pool starts new ones when it is used again."""
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def _round(self, selector: selectors.DefaultSelector, waiting: deque[tuple[str, str]]) -> None:
        for worker in self._workers:
            if worker.ready and worker.question is None and waiting:
                # One that died while idle keeps its question here; its pipe's end comes next.
                taken = worker.ask(waiting[0], limit=self.limit, patience=3.0 * self.limit)
                if taken:
                    waiting.popleft()
        busy = [w for w in self._workers if w.question is not None or not w.ready]
        now = time.monotonic()
        patience = min((w.deadline for w in busy), default=now) - now
        for key, _ in selector.select(timeout=max(0.0, patience)):
            worker = key.data
            try:
                reply = worker.read()
            except EOFError:
                self._replace(selector, worker, "crashed")
                continue
            if reply is not None:
                self._settle(worker, reply)
        late = [w for w in self._workers if w.deadline < time.monotonic()]
        for worker in late:
            if worker.question is not None or not worker.ready:
                self._replace(selector, worker, "timeout")

    def _settle(self, worker: _Worker, reply: dict[str, object]) -> None:
        if "ready" in reply:
            worker.ready = True
            self._failed_starts = 0
            return
        assert worker.question is not None
        right = reply.get("right") is True
        self._cache[worker.question] = Verdict(right, str(reply.get("error", "")))
        worker.question = None

    def _replace(self, selector: selectors.DefaultSelector, worker: _Worker, reason: str) -> None:
        selector.unregister(worker.pipe)
        worker.stop()
        self._workers.remove(worker)
        if not worker.ready:
            self._failed_starts += 1
        if self._failed_starts == START_ATTEMPTS:
            raise RuntimeError(
                f"a grading process did not start {START_ATTEMPTS} times in a row; run "
                "python -m tandem.tasks.grading_worker to see why"
            )
        if worker.question is not None:
            self._cache[worker.question] = Verdict(False, reason)
        fresh = _Worker()
        self.replaced += 1
        self._workers.append(fresh)
        selector.register(fresh.pipe, selectors.EVENT_READ, fresh)


@cache
def shared_pool(*, workers: int, limit: int) -> GradingPool:
    """The one pool of this process with these settings."""
    return GradingPool(workers=workers, limit=limit)


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` whose braces balance; None where there is none.

    One pass: completions are a model's, and a megabyte of open boxes must not cost more.
    """
    opened: list[int] = []
    found = (-1, -1)
    for brace in _BRACES.finditer(text):
        if brace.group().startswith("\\boxed"):
            opened.append(brace.end())
        elif brace.group() == "{":
            opened.append(-1)
        elif brace.group() == "}" and opened:
            found = max(found, (opened.pop(), brace.start()))
    start, end = found
    return None if start < 0 else text[start:end].strip()
