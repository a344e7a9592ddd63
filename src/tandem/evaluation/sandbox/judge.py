"""The judge's side: run the tests, with the program in another process.

The tests compare plain values that they were sent, with operators of this interpreter. An object
of the program is a `Remote`: it can be called, read and passed back, and equals nothing but
itself, so a value that claims to equal everything does not. Standard library only.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

from tandem.evaluation.sandbox.values import Held, Line, decode, encode


class ProgramError(Exception):
    """The program raised something that is no built-in exception."""


class Remote:
    """An object that stays with the program; questions about it are asked over the line."""

    __slots__ = ("_asker", "_number")

    def __init__(self, asker: Asker, number: int) -> None:
        object.__setattr__(self, "_asker", asker)
        object.__setattr__(self, "_number", number)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._asker.ask("call", self, given, named)

    def __getattr__(self, name: str) -> Any:
        return self._asker.ask("attribute", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._asker.ask("assign", self, name, value)

    def __getitem__(self, index: Any) -> Any:
        return self._asker.ask("item", self, index)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._asker.ask("items", self))

    def __len__(self) -> int:
        return self._asker.ask("length", self)

    def __bool__(self) -> bool:
        return self._asker.ask("truth", self) is True


class Asker:
    """Asks the program's side and waits for the answer."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def ask(self, question: str, *given: Any) -> Any:
        """The answer as a plain value or a Remote; an error of the program is raised here.

        Raises EOFError where the program has ended.
        """
        self._line.send([question, *(encode(value, _held) for value in given)])
        kind, text = self._line.receive()
        if kind == "value":
            return decode(text, lambda number: Remote(self, number))
        known = builtins.__dict__.get(text) if isinstance(text, str) else None
        if isinstance(known, type) and issubclass(known, Exception):
            raise known(f"raised by the program: {text}")
        raise ProgramError(f"raised by the program: {text}")


def _held(value: Any) -> Held:
    if not isinstance(value, Remote):
        raise TypeError(f"a test hands the program a {type(value).__name__}, which is no value")
    return Held(object.__getattribute__(value, "_number"))


def judge(line: Line, *, before: str, names: list[str], tests: str) -> str:
    """Run the tests; why they failed, or an empty text.

    before: trusted source whose names the tests may use. names: what the program must define;
    they replace those of `before` and of the built-ins, and no other name is the program's.
    """
    asker = Asker(line)
    space: dict[str, Any] = {"__name__": "tests"}
    try:
        asker.ask("load")
        exec(compile(before, "before.py", "exec"), space)
        space.update((name, asker.ask("get", name)) for name in names)
        exec(compile(tests, "tests.py", "exec"), space)
    except EOFError:
        return "the program ended"
    except AssertionError:
        return "wrong answer"
    except BaseException as error:
        return f"error: {type(error).__name__}"
    return ""
