"""Finished answers of a suite, kept in a folder so that none is made twice.

identity.json says whose answers they are and how they were drawn; generations.jsonl holds one
answer a line. A last line that was cut short (the process was killed) is made again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

IDENTITY = "identity.json"
GENERATIONS = "generations.jsonl"

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer: sample number `sample` (from 0) of the problem with id `problem`.

    text: without its end token. tokens: with it. truncated: it reached the length limit.
    """

    problem: str
    sample: int
    text: str
    tokens: int
    truncated: bool

    @property
    def key(self) -> Key:
        return self.problem, self.sample


class Generations:
    """The answers in a folder; made by `opened`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[Key, Generation] = {}
        for number, line in enumerate(_whole_lines(path), start=1):
            try:
                one = Generation(**json.loads(line))
            except (ValueError, TypeError):
                raise ValueError(
                    f"line {number} of {path} is no answer; delete that line, and it is made again"
                ) from None
            self.found[one.key] = one

    def add(self, generations: Sequence[Generation]) -> None:
        """Keep more answers; they are on disk when this returns."""
        lines = [json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in generations]
        with self._path.open("ab") as file:
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
        self.found |= {one.key: one for one in generations}


@contextmanager
def opened(folder: Path, identity: Mapping[str, Any]) -> Iterator[Generations]:
    """The answers in `folder`, for this process alone as long as the block lasts.

    identity: everything that an answer depends on besides its problem and its number, as plain
    JSON. Raises ValueError where the folder holds answers of another identity, cannot be made, or
    is in use.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ValueError(
            f"the folder {folder} cannot be used ({error.strerror}); give another --output"
        ) from None
    try:
        _lock(descriptor, folder)
        _check_identity(folder, identity)
        yield Generations(folder / GENERATIONS)
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    path = folder / IDENTITY
    if not _holds_an_answer(folder / GENERATIONS):
        # Nothing to mix with: whoever began here was refused, or stopped before the first answer.
        write_whole(path, identity)
        return
    if not path.is_file():
        raise ValueError(
            f"{folder} holds answers but no {IDENTITY}, so it is not known whose they are; "
            "give another --output"
        )
    # Through JSON, as what is compared with went: tuples come back as lists.
    old, new = json.loads(path.read_bytes()), json.loads(json.dumps(identity))
    for name in dict.fromkeys([*new, *old]):
        if old.get(name) != new.get(name):
            raise ValueError(
                f"{folder} holds answers of another {name} ({_short(old.get(name))}; now "
                f"{_short(new.get(name))}); give another --output, or delete that folder"
            )


def _holds_an_answer(path: Path) -> bool:
    """Whether a first line is finished; nothing is mended in a folder that may be another's."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _whole_lines(path: Path) -> list[bytes]:
    """The finished lines, and nothing after them in the file either: more will be appended."""
    if not path.is_file():
        return []
    *whole, rest = path.read_bytes().split(b"\n")
    if rest:
        with path.open("r+b") as file:
            file.truncate(sum(len(line) + 1 for line in whole))
    return whole


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{folder} is in use by another evaluation; wait for it, or give another --output"
        ) from None
    except OSError:
        pass  # a network file system without locks: nothing to hold, and no reason not to go on
