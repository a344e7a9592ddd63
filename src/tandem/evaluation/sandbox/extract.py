"""Which part of an answer is the program.

The last fenced block of Python (or of no named language) that holds anything; a block that is
opened and never closed ends with the answer. An answer without one is taken as it stands, without
what a model thought aloud first. What a suite does with either is said in the suite.
"""

from __future__ import annotations

import ast
import re
import warnings

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*$", re.MULTILINE)
_PYTHON = {"", "python", "python3", "py"}


def without_thoughts(answer: str) -> str:
    """What follows the last end of thinking."""
    return answer.rpartition("</think>")[2]


def last_block(answer: str) -> str | None:
    """The last fenced block of Python, without its fence; None where there is none."""
    found, opened = None, None
    for fence in _FENCE.finditer(answer):
        if opened is not None:
            found = _block(answer, opened, fence.start()) or found
        # A fence that names a language opens a block, even where the one before was left open.
        opened = fence if opened is None or fence.group(1) else None
    if opened is not None:
        found = _block(answer, opened, len(answer)) or found
    return found


def _block(answer: str, opened: re.Match[str], end: int) -> str | None:
    block = answer[opened.end() + 1 : end]
    return block if opened.group(1).lower() in _PYTHON and block.strip() else None


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text up to the first of the stops."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def defines(source: str, name: str) -> bool:
    """Whether the source has a definition of that name at the start of a line."""
    return re.search(rf"^(?:async +def|def|class) +{re.escape(name)}\b", source, re.M) is not None


def top_names(source: str) -> list[str]:
    """Functions and classes that the source defines. Raises SyntaxError where it is none."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in _parsed(source).body if isinstance(node, kinds)]


def names_used(source: str) -> set[str]:
    """Every name that the source reads or sets. Raises SyntaxError where it is none."""
    return {node.id for node in ast.walk(_parsed(source)) if isinstance(node, ast.Name)}


def _parsed(source: str) -> ast.Module:
    with warnings.catch_warnings():
        # Of a benchmark's own code, which is as it is.
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return ast.parse(source)
