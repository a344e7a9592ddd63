"""Plain values as text, which is all that a program and its judge say to each other.

The program's side is a stranger's, so nothing that it sends can become more than a value: numbers,
text, containers of these, and numbers that stand for objects the program keeps. Standard library
only.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

# Bytes of one message; a longer one ends the conversation.
LONGEST = 32 * 1024 * 1024
_SEQUENCES: dict[str, type] = {"l": list, "t": tuple, "s": set, "z": frozenset}


class Held:
    """A number for an object that stays with the program."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def encode(value: Any, hold: Callable[[Any], Held]) -> Any:
    """A value as JSON can write it; `hold` gives numbers to what is not plain.

    Instances of subclasses become plain: a Counter is sent as its dict, a named tuple as a tuple.
    """
    if value is None or isinstance(value, bool | str):
        return value if not isinstance(value, str) else str.__str__(value)
    if isinstance(value, int):
        # Hexadecimal digits, because decimal ones are limited and slow.
        return ["i", hex(int.__add__(value, 0))]
    if isinstance(value, float):
        return ["f", float.hex(value)]
    if isinstance(value, complex):
        return ["c", value.real.hex(), value.imag.hex()]
    if isinstance(value, bytes | bytearray):
        return ["b", bytes(value).hex()]
    if isinstance(value, dict):
        return ["d", [[encode(k, hold), encode(v, hold)] for k, v in dict.items(value)]]
    for tag, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return [tag, [encode(item, hold) for item in kind.__iter__(value)]]
    return ["h", hold(value).number]


def decode(text: Any, held: Callable[[int], Any]) -> Any:
    """The value behind `encode`'s form. Raises ValueError for any other form."""
    if text is None or isinstance(text, bool | str):
        return text
    if not isinstance(text, list) or len(text) < 2:
        raise ValueError("a message holds something that is no value")
    tag, body = text[0], text[1]
    if tag == "i" and isinstance(body, str):
        return int(body, 16)
    if tag == "f" and isinstance(body, str):
        return float.fromhex(body)
    if tag == "c" and len(text) == 3:
        return complex(float.fromhex(body), float.fromhex(text[2]))
    if tag == "b" and isinstance(body, str):
        return bytes.fromhex(body)
    if tag == "d" and isinstance(body, list):
        return {decode(key, held): decode(value, held) for key, value in body}
    if tag == "h" and isinstance(body, int):
        return held(body)
    if isinstance(tag, str) and tag in _SEQUENCES and isinstance(body, list):
        return _SEQUENCES[tag](decode(item, held) for item in body)
    raise ValueError("a message holds something that is no value")


class Line:
    """Messages over a socket, one JSON text per line."""

    def __init__(self, connection: socket.socket) -> None:
        self._read = connection.makefile("rb")
        self._connection = connection

    def send(self, message: list[Any]) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Any]:
        """Raises EOFError where the other side has ended, ValueError for what is no message."""
        text = self._read.readline(LONGEST)
        if not text:
            raise EOFError
        if not text.endswith(b"\n"):
            raise ValueError("a message is longer than the limit, or was cut")
        message = json.loads(text)
        if not isinstance(message, list) or not message:
            raise ValueError("a message is no list")
        return message
