"""A folder of the teacher's completions: sampled once, read by later epochs and runs.

One JSON line per completion, below a line that says whose they are. Every process writes a new file
of its own and reads all of them; a line that a killed process left unfinished is no line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path

# Digest of the teacher's prompt, number of the sample.
Key = tuple[str, int]
Ids = tuple[int, ...]


class CompletionCache:
    """Completions by key. Only where they lie is kept in memory.

    identity, limit: whose answers these are, and how many tokens they were allowed.
    Raises ValueError for a folder that cannot be made, or holds answers of another identity or
    limit, or something else.
    """

    def __init__(self, folder: Path, *, identity: str, limit: int, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._head = {"identity": identity, "limit": limit}
        self._places: dict[Key, tuple[Path, int]] = {}
        self._read: dict[Path, int] = {}
        self._own: Path | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"the completion cache {folder} cannot be used ({error.strerror}); name another "
                "folder or mend that path"
            ) from None
        self.refresh()

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def read(self, key: Key) -> Ids:
        path, offset = self._places[key]
        with path.open("rb") as file:
            file.seek(offset)
            return tuple(json.loads(file.readline())["ids"])

    def refresh(self) -> None:
        """Take in what other processes have written since."""
        for path in sorted(self._folder.glob("*.jsonl")):
            self._take_in(path)

    def add(self, completions: Mapping[Key, Ids]) -> None:
        """Write them down, in the file of this process."""
        if self._own is None:
            self._own = self._made()
        path, lines = self._own, []
        offset = self._read[path]
        for (prompt, sample), ids in completions.items():
            self._places[prompt, sample] = path, offset
            lines.append(_line({"prompt": prompt, "sample": sample, "ids": list(ids)}))
            offset += len(lines[-1])
        with path.open("ab") as file:
            file.write(b"".join(lines))
        self._read[path] = offset

    def _take_in(self, path: Path) -> None:
        """Note the finished lines of a file that are new."""
        with path.open("rb") as file:
            offset = self._read.get(path, 0)
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written, or never finished
                if offset == 0:
                    self._check_head(path, line)
                else:
                    # The first one stays: what was given once is given again.
                    self._places.setdefault(_key_of(line, path), (path, offset))
                offset += len(line)
                self._read[path] = offset

    def _check_head(self, path: Path, line: bytes) -> None:
        head = _parsed(line)
        if head is None or set(head) != set(self._head):
            raise ValueError(
                f"{path} is no file of completions: its first line does not say whose they are; "
                "name another folder"
            )
        identity, limit = self._head["identity"], self._head["limit"]
        if head["identity"] != identity:
            raise ValueError(
                f"the completion cache {self._folder} holds answers of {head['identity']}, not of "
                f"{identity}; name another folder"
            )
        if head["limit"] != limit:
            raise ValueError(
                f"the completion cache {self._folder} holds answers of at most {head['limit']} "
                f"tokens, but rollout.max_new_tokens is {limit}; make them equal or name another "
                "folder"
            )

    def _made(self) -> Path:
        """A new file of this process, so that no two ever write the same one, runs that share the
        folder included."""
        head = _line(self._head)
        for number in count():
            path = self._folder / f"rank{self._rank}-{number}.jsonl"
            try:
                with path.open("xb") as file:
                    file.write(head)
            except FileExistsError:
                continue
            self._read[path] = len(head)
            return path
        raise AssertionError("numbers do not end")


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, object] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _key_of(line: bytes, path: Path) -> Key:
    value = _parsed(line)
    if value is None or set(value) != {"prompt", "sample", "ids"}:
        raise ValueError(
            f"{path} has a line that is no completion; delete the file, and its answers are "
            "sampled again"
        )
    return str(value["prompt"]), int(str(value["sample"]))
