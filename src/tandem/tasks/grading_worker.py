"""The child process that compares two answers with math-verify.

Run as a script by `grading.py`, never imported by the package: a fresh interpreter that loads
neither the caller's main module nor torch. One JSON line `[gold, answer]` in, one JSON line
`[correct, reason]` out; the end of input is the end of the process.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
from functools import lru_cache
from typing import Any

# A hostile answer may ask for any amount of memory; sympy and the parser need a tenth of this.
_MEMORY_BYTES = 2 * 2**30
# The parent kills at its limit; this is for the case that the parent is gone.
_ORPHAN_SECONDS = 5.0


def main(limit_seconds: float) -> None:
    """Answer requests until the input ends. limit_seconds: wall time the parent allows for one."""
    # Ctrl-C reaches the whole process group; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints goes to stderr: stdout carries the protocol alone.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    # Three guarded calls make one comparison, and the alarm counts whole seconds.
    seconds = max(1, int(limit_seconds / 3))
    compare = _comparer(seconds)
    print("ready", file=replies, flush=True)
    with open(os.devnull, "w") as nowhere:
        for line in sys.stdin:
            gold, answer = json.loads(line)
            faulthandler.dump_traceback_later(
                limit_seconds + _ORPHAN_SECONDS, exit=True, file=nowhere
            )
            reply = compare(gold, answer)
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(reply), file=replies, flush=True)


def _comparer(seconds: int) -> Any:
    """(gold, answer) → (correct, reason), each step of it limited to `seconds`."""
    from math_verify import LatexExtractionConfig, parse, verify
    from math_verify.errors import TimeoutException

    targets = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(text: str) -> list[Any]:
        # A box rather than dollars: some answers hold dollar signs themselves.
        boxed = "\\boxed{" + text + "}"
        return parse(boxed, targets, parsing_timeout=seconds, raise_on_error=True)

    read_gold = lru_cache(maxsize=1024)(read)

    def compare(gold: str, answer: str) -> tuple[bool, str]:
        # Broad on purpose: the text is a model's, and the parser and sympy raise anything at it.
        # The timeout of math-verify is a BaseException.
        try:
            golds = read_gold(gold)
        except (Exception, TimeoutException):
            golds = []
        if not golds:
            return False, "unreadable reference"
        try:
            answers = read(answer)
        except TimeoutException:
            return False, "timeout"
        except Exception:
            answers = []
        if not answers:
            return False, "unreadable"
        reason = ""
        for left in golds:
            for right in answers:
                try:
                    # The reference first: the comparison is not symmetric.
                    if verify(left, right, timeout_seconds=seconds, raise_on_error=True):
                        return True, ""
                except TimeoutException:
                    return False, "timeout"
                except Exception:
                    reason = "not comparable"
        return False, reason

    return compare


if __name__ == "__main__":
    main(float(sys.argv[1]))
