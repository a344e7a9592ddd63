"""One grading process: reads {gold, answer, limit} as JSON lines, writes {right, error}.

Run as `python -m tandem.tasks.grading_worker`, never imported by the trainer. math-verify bounds
itself by SIGALRM, which works in a main thread only, so each worker has one to itself; whoever
started it kills it when even that does not help.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from tandem.tasks.spelling import decimals_more, is_formula, readings, same_in_base, same_integer

ANTLR = "4.13.2"
ADDRESS_SPACE = 4 * 2**30
ORPHAN_SECONDS = 5.0


def check_antlr() -> None:
    """Raise RuntimeError unless the pinned parser runtime is there: others misread `50\\%`."""
    found = version("antlr4-python3-runtime")
    if found != ANTLR:
        raise RuntimeError(
            f"antlr4-python3-runtime is {found}, but answers are only read right with {ANTLR}: "
            f"pip install antlr4-python3-runtime=={ANTLR}"
        )


def main() -> None:
    """Answer questions until the input ends."""
    # Before math-verify loads: a hostile answer may ask for any amount of memory.
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    check_antlr()
    # Its warnings quote whole answers.
    logging.disable(logging.CRITICAL)
    compare = Comparer()
    replies = sys.stdout
    # A stray print of the library's must not be taken for a reply.
    sys.stdout = sys.stderr
    print(json.dumps({"ready": True}), file=replies, flush=True)
    with open(os.devnull, "w") as nowhere:
        for line in sys.stdin:
            item = json.loads(line)
            # Ends a process whose caller was killed and cannot kill it: this thread fires even
            # while the main one is deep in arithmetic on huge integers.
            faulthandler.dump_traceback_later(
                3.0 * item["limit"] + ORPHAN_SECONDS, exit=True, file=nowhere
            )
            error = compare(item["gold"], item["answer"], item["limit"])
            faulthandler.cancel_dump_traceback_later()
            reply = {"right": error is None, "error": error or ""}
            print(json.dumps(reply), file=replies, flush=True)


class Comparer:
    """(gold, answer, seconds per part) → None where they are equal, else why not, "" if known."""

    def __init__(self) -> None:
        from math_verify import LatexExtractionConfig

        # The box and nothing else: no "final answer is ..." inside it is looked for.
        self._number = LatexExtractionConfig(boxed_match_priority=0)
        unitless = replace(self._number.normalization_config, units=False)
        self._formula = replace(self._number, normalization_config=unitless)
        self._read_gold = lru_cache(maxsize=1024)(self._read)

    def __call__(self, gold: str, answer: str, limit: int) -> str | None:
        for told in (same_in_base(gold, answer), same_integer(gold, answer)):
            if told is not None:
                return None if told else ""
        reason: str | None = ""
        form = self._formula if is_formula(gold) else self._number
        for left, right in readings(gold, answer):
            reason = self._compare(left, right, limit, form)
            if reason is None or reason == "timeout":
                return reason
        return reason

    def _compare(self, gold: str, answer: str, limit: int, form: Any) -> str | None:
        from math_verify import verify
        from math_verify.errors import TimeoutException

        # Broad on purpose: sympy and the parser raise anything at text that a model wrote.
        try:
            golds, answers = self._read_gold(gold, limit, form), self._read(answer, limit, form)
        except TimeoutException:
            return "timeout"
        except Exception as error:
            return type(error).__name__
        more = decimals_more(gold)
        reason = ""
        # Pair by pair, because the library hides the timeout and the error of a list.
        for left in golds:
            for right in answers:
                try:
                    # Gold first: the check is not symmetric.
                    if verify(
                        left,
                        right,
                        float_rounding=6 + more,
                        numeric_precision=15 + more,
                        timeout_seconds=limit,
                        raise_on_error=True,
                    ):
                        return None
                except TimeoutException:
                    return "timeout"
                except Exception as error:
                    reason = type(error).__name__
        return reason

    @staticmethod
    def _read(text: str, limit: int, form: Any) -> list[Any]:
        from math_verify import parse

        # A box rather than dollars, because some answers hold dollar signs themselves.
        boxed = "\\boxed{" + text + "}"
        return parse(boxed, [form], parsing_timeout=limit, raise_on_error=True)


if __name__ == "__main__":
    main()
