"""Where a completion says what its answer is: inside \\boxed{}."""

from __future__ import annotations

import re

_BOX = re.compile(r"\\boxed\s*\{")


def last_boxed(text: str) -> str | None:
    """What stands in the last box of `text`; None without one, or where its brace never closes.

    The last box decides even when it is empty or left open: an answer that was cut short is not
    replaced by an earlier one. Of nested boxes that is the innermost. One pass over the text.
    """
    last = None
    for last in _BOX.finditer(text):  # noqa: B007  # only the last match is wanted
        pass
    if last is None:
        return None
    depth, i = 1, last.end()
    while i < len(text):
        if text[i] == "\\":
            i += 1  # `\{` and `\}` are printed braces, which need not be paired
        elif text[i] == "{":
            depth += 1
        elif text[i] == "}":
            depth -= 1
            if depth == 0:
                return text[last.end() : i].strip()
        i += 1
    return None
