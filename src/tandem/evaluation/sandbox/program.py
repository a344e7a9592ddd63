"""The program's side: run a stranger's source and answer the judge's questions about it.

Whatever the source does to this module, to its interpreter or to the conversation, it can only
change the values that the judge reads. Standard library only.
"""

from __future__ import annotations

import atexit
import builtins
import itertools
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from tandem.evaluation.sandbox.values import Held, Line, decode, encode

# Items that are read from one iterator.
_MOST_ITEMS = 1_000_000


def _module(name: str) -> types.ModuleType:
    """A fresh module under that name, with what the `site` module would have added."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    sys.argv = ["program.py"]
    os.environ.clear()
    builtins.__dict__.update(exit=sys.exit, quit=sys.exit)
    return module


def run_script(source: str) -> int:
    """Run the source as a script on this process's standard input and output; its exit status."""
    try:
        exec(compile(source, "program.py", "exec"), _module("__main__").__dict__)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        status = 1
    try:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        status = 1
    return status & 0xFF


class Server:
    """Runs a source as a module and answers questions about what it defines."""

    def __init__(self, line: Line, source: str) -> None:
        self._line = line
        self._source = source
        self._names: dict[str, Any] = {}
        self._objects: list[Any] = []
        self._answers: dict[str, Callable[..., Any]] = {
            "load": self._load,
            "get": lambda name: self._names[name],
            "call": lambda held, given, named: held(*given, **named),
            "attribute": getattr,
            "assign": setattr,
            "item": lambda held, index: held[index],
            "items": lambda held: list(itertools.islice(held, _MOST_ITEMS)),
            "truth": bool,
            "length": len,
        }

    def run(self) -> None:
        """Answer until the judge has ended."""
        while True:
            try:
                question, *given = self._line.receive()
            except EOFError:
                return
            try:
                known = [decode(value, self._objects.__getitem__) for value in given]
                answer = ["value", encode(self._answers[question](*known), self._hold)]
            except BaseException as error:
                answer = ["error", type(error).__name__]
            self._line.send(answer)

    def _load(self) -> None:
        module = _module("program")
        self._names = module.__dict__
        exec(compile(self._source, "program.py", "exec"), self._names)

    def _hold(self, value: Any) -> Held:
        self._objects.append(value)
        return Held(len(self._objects) - 1)
