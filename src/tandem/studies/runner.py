"""Many jobs on several processes: each process does one at a time, and stops when it is told to.

A process is started once and keeps what it has imported. Ctrl-C reaches whoever calls; the
processes hear of it by SIGTERM, which a run in training turns into a checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from tandem.training.signals import terminated_like_ctrl_c

Tell = Callable[[Any], None]
Work = Callable[[Any, Tell], Any]


@dataclass(frozen=True, slots=True)
class Job:
    """work: a function of a module, so that another process can import it; it is called with
    `what` and a function that tells the caller something. name: for messages."""

    name: str
    work: Work
    what: Any


@dataclass(frozen=True, slots=True)
class Begun:
    """A job was handed to the process number `slot`."""

    slot: int
    job: Job


@dataclass(frozen=True, slots=True)
class Told:
    """What a job had to say on the way."""

    slot: int
    job: Job
    what: Any


@dataclass(frozen=True, slots=True)
class Ended:
    """A job is done; `result` is what its function returned."""

    slot: int
    job: Job
    result: Any


Hear = Callable[[Begun | Told | Ended], None]


@dataclass(slots=True)
class _Slot:
    process: BaseProcess
    pipe: Connection
    job: Job | None = None


def run_jobs(jobs: Sequence[Job], *, environments: Sequence[Mapping[str, str]], hear: Hear) -> None:
    """Do every job, in order, on as many processes as there are environments.

    environments: what each process has set besides its own. hear: told here what happens.
    Raises ValueError where a job did, and RuntimeError where it failed otherwise or its process
    died; KeyboardInterrupt as it comes. In each case the other processes are stopped first.
    """
    waiting = list(jobs)[::-1]
    context = multiprocessing.get_context("spawn")
    slots: list[_Slot] = []
    try:
        for environment in environments[: len(jobs)]:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, dict(environment)))
            process.start()
            theirs.close()
            slots.append(_Slot(process, ours))
        for number, slot in enumerate(slots):
            _hand_over(slot, number, waiting, hear)
        while any(slot.job is not None for slot in slots):
            ready = wait([slot.pipe for slot in slots if slot.job is not None])
            for number, slot in enumerate(slots):
                if slot.pipe in ready:
                    _take(slot, number, waiting, hear)
    finally:
        _stop(slots)


def _hand_over(slot: _Slot, number: int, waiting: list[Job], hear: Hear) -> None:
    slot.job = waiting.pop() if waiting else None
    if slot.job is not None:
        hear(Begun(number, slot.job))
        # If it died before, hearing from it says so.
        with suppress(BrokenPipeError, ConnectionResetError):
            slot.pipe.send((slot.job.work, slot.job.what))


def _take(slot: _Slot, number: int, waiting: list[Job], hear: Hear) -> None:
    assert slot.job is not None
    try:
        kind, what = slot.pipe.recv()
    except (EOFError, ConnectionResetError):
        slot.process.join()
        raise RuntimeError(
            f"the process that worked on {slot.job.name} ended with code {slot.process.exitcode}; "
            "a negative one is a signal, and -9 is what the system sends where memory runs out"
        ) from None
    if kind == "told":
        hear(Told(number, slot.job, what))
    elif kind == "ended":
        hear(Ended(number, slot.job, what))
        _hand_over(slot, number, waiting, hear)
    elif kind == "refused":
        raise ValueError(f"{slot.job.name}: {what}")
    elif kind == "stopped":
        raise KeyboardInterrupt
    else:
        raise RuntimeError(f"{slot.job.name} failed:\n{what}")


def _stop(slots: Sequence[_Slot]) -> None:
    """Let idle processes go, ask busy ones to stop, and wait for all of them."""
    for slot in slots:
        if slot.job is not None:
            slot.process.terminate()
    try:
        for slot in slots:
            if slot.job is not None:
                _hear_out(slot.pipe)
            slot.pipe.close()
            slot.process.join()
    except KeyboardInterrupt:
        # Asked twice: now, without saving.
        for slot in slots:
            slot.process.kill()
            slot.process.join()
        raise


def _hear_out(pipe: Connection) -> None:
    """Read what a process says until its job has ended: it could not finish into a closed pipe."""
    try:
        while pipe.recv()[0] == "told":
            pass
    except (EOFError, ConnectionResetError):
        pass


def _serve(pipe: Connection, environment: Mapping[str, str]) -> None:
    """What a process does: one job after another, until the pipe closes."""
    # A terminal's Ctrl-C goes to every process; ours listen to the one that started them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    while True:
        try:
            with terminated_like_ctrl_c():
                work, what = pipe.recv()
                answer = ("ended", work(what, lambda said: pipe.send(("told", said))))
        except (EOFError, BrokenPipeError):
            return
        except KeyboardInterrupt:
            answer = ("stopped", None)
        except ValueError as error:
            answer = ("refused", str(error))
        # Whatever a job raises is told, with its trace, to the process that asked for it.
        except Exception:
            answer = ("failed", traceback.format_exc())
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return
