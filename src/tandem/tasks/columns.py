"""Rows of a data set, wherever they lie, and the columns that hold prompts, answers and the rest.

A source is a file (`train.jsonl`, `train.parquet`) or a data set of the hub, `owner/name`, with
`#config` and `@split` where it has several (`openai/gsm8k#main@test`; the split is `train` unless
said).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem.tasks.grading import last_boxed

Row = Mapping[str, Any]

PROMPT_COLUMNS = ("problem", "prompt", "question", "messages", "conversations")
ANSWER_COLUMNS = ("answer", "final_answer", "gold", "target", "solution")
COMPLETION_COLUMNS = ("completion", "response", "generation")
DOMAIN_COLUMNS = ("domain",)
_FILES = (".jsonl", ".json", ".parquet")
_TURN_KEYS = ({"role", "content"}, {"from", "value"})
_ROLES = {"human": "user", "gpt": "assistant"}


def read_rows(source: str) -> list[Row]:
    """All rows of a source. Raises ValueError for a missing file and an empty data set."""
    path = Path(source)
    if path.suffix in _FILES:
        if not path.is_file():
            raise ValueError(f"no data file {source!r}; give a path or the name of a data set")
        rows = _read_file(path)
    else:
        rows = _read_hub(source)
    if not rows:
        raise ValueError(f"{source!r} holds no rows; give a file with one problem per row")
    return rows


def _read_file(path: Path) -> list[Row]:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(path).to_pylist()
        except pyarrow.ArrowInvalid:
            raise ValueError(f"{path} is no Parquet file; give one that is whole") from None
    rows: list[Row] = []
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return _rows_of_json(text, path)
    # Only a newline ends a row: other line separators occur inside problems.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {path} is not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise ValueError(f'line {number} of {path} is no object; write {{"problem": ...}}')
        rows.append(row)
    return rows


def _rows_of_json(text: str, path: Path) -> list[Row]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}; one object per line is .jsonl") from None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError(f'{path} is no list of objects; write [{{"problem": ...}}, ...]')
    return found


def _read_hub(source: str) -> list[Row]:
    from datasets import load_dataset

    name, _, split = source.partition("@")
    name, _, config = name.partition("#")
    try:
        dataset = load_dataset(name, config or None, split=split or "train")
        return [dict(row) for row in dataset]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the data set {source!r} cannot be loaded ({str(error).splitlines()[0]}); check the "
            f"name, or give a file ending in {', '.join(_FILES)}"
        ) from None


def choose_column(
    rows: Sequence[Row], named: str | None, known: Iterable[str], *, what: str, source: str
) -> str:
    """The named column, or the first known one that the data have.

    Raises ValueError that lists the columns found.
    """
    known = tuple(known)
    # Rows of a JSONL file need not have the same keys.
    found = list(dict.fromkeys(key for row in rows for key in row))
    if named is not None:
        if all(lookup(row, named) is None for row in rows):
            raise ValueError(
                f"{source} has no {what} column {named!r}; its columns are {', '.join(found)}"
            )
        return named
    for column in known:
        if column in found:
            return column
    raise ValueError(
        f"{source} has none of the {what} columns {', '.join(known)}; name one of its own: "
        f"{', '.join(found)}"
    )


def optional_column(
    rows: Sequence[Row], named: str | None, known: Sequence[str], *, what: str, source: str
) -> str | None:
    """As `choose_column`, but None where none is named and the data have no known one."""
    if named is None and not any(column in row for row in rows for column in known):
        return None
    return choose_column(rows, named, known, what=what, source=source)


def lookup(row: Row, column: str) -> Any:
    """A value by column, or by dotted path into a nested one; None where there is none."""
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def turns(value: Any) -> tuple[dict[str, str], ...]:
    """Chat turns up to the last user turn, without the system's; a string is one user turn.

    Turns are `{role, content}` or `{from, value}` with `human` and `gpt`. Anything else has no
    turns.
    """
    if isinstance(value, str):
        return ({"role": "user", "content": value},)
    read = [turn for turn in _read_turns(value) or () if turn["role"] != "system"]
    while read and read[-1]["role"] != "user":
        read.pop()
    return tuple(read)


def _read_turns(value: Any) -> list[dict[str, str]] | None:
    """All turns as `{role, content}`; None for anything else than a list of turns."""
    if not isinstance(value, list):
        return None
    read: list[dict[str, str]] = []
    for turn in value:
        keys = next((k for k in _TURN_KEYS if isinstance(turn, Mapping) and k <= turn.keys()), None)
        if keys is None:
            return None
        role = str(turn["role"] if "role" in keys else turn["from"])
        content = str(turn["content"] if "role" in keys else turn["value"])
        read.append({"role": _ROLES.get(role, role), "content": content})
    return read


def said(value: Any) -> str:
    """A completion: the text, or what the assistant says after the last user turn; else nothing.

    Turns as in `turns`, so a column of whole conversations holds prompts and completions.
    """
    if isinstance(value, str):
        return value
    told: list[str] = []
    for turn in _read_turns(value) or ():
        if turn["role"] == "user":
            told = []
        elif turn["role"] == "assistant":
            told.append(turn["content"])
    return told[-1] if told else ""


def gold(value: Any) -> str:
    r"""The gold answer of an answer column: what follows `####`, or the last box, or all of it."""
    if value is None:
        return ""
    text = str(value)
    if "####" in text:
        return text.rsplit("####", 1)[-1].strip()
    boxed = last_boxed(text)
    return text.strip() if boxed is None else boxed
