"""One grading process: reads {gold, answer} as JSON lines, writes {right} or {error}.

Run as `python -m tandem.tasks.grading_worker`, never imported by the trainer. math-verify bounds
itself by SIGALRM, which works in a main thread only, so each worker has one to itself; whoever
started it kills it when even that does not help.
"""

from __future__ import annotations

import json
import resource
import sys
from importlib.metadata import version

ANTLR = "4.13.2"
ADDRESS_SPACE = 4 * 2**30


def check_antlr() -> None:
    """Raise RuntimeError unless the pinned parser runtime is there: others misread `50\\%`."""
    found = version("antlr4-python3-runtime")
    if found != ANTLR:
        raise RuntimeError(
            f"antlr4-python3-runtime is {found}, but answers are only read right with {ANTLR}: "
            f"pip install antlr4-python3-runtime=={ANTLR}"
        )


def main() -> None:
    # Before math-verify loads: a hostile answer may ask for any amount of memory.
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    check_antlr()
    import logging

    from math_verify import parse, verify
    from math_verify.errors import TimeoutException

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    replies = sys.stdout
    # A stray print of the library's must not be taken for a reply.
    sys.stdout = sys.stderr
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        item = json.loads(line)
        try:
            # Gold first: the check is not symmetric.
            gold = parse(f"\\boxed{{{item['gold']}}}", parsing_timeout=item["limit"])
            answer = parse(f"\\boxed{{{item['answer']}}}", parsing_timeout=item["limit"])
            reply = {"right": bool(verify(gold, answer, timeout_seconds=item["limit"]))}
        except (MemoryError, RecursionError, TimeoutException) as error:
            reply = {"error": type(error).__name__}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
