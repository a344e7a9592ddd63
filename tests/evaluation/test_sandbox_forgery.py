"""Programs that pretend to have passed: each is a wrong answer."""

from __future__ import annotations

import pytest
from sandbox_attacks import RIGHT, WRONG, judged

from tandem.evaluation.sandbox import Checks, Outcome


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os; os._exit(0)", "the program ended"),
        ("def answer():\n    import os; os._exit(0)", "the program ended"),
        ("import sys; sys.exit(0)", "error: ProgramError"),
        ("def answer(): raise SystemExit(0)", "error: ProgramError"),
        ("def answer(): raise KeyboardInterrupt", "error: ProgramError"),
        ("import threading, os\nthreading.Timer(0, os._exit, [0]).start()\nwhile True: pass", None),
        ("import os; os.closerange(0, 1000)" + RIGHT, None),
        ("import os; os.abort()", "the program ended"),
        ("import ctypes; ctypes.string_at(0)", "the program ended"),
    ],
)
def test_ending_early_is_a_wrong_answer(source: str, reason: str | None) -> None:
    outcome = judged(source)
    assert not outcome.passed and reason in (None, outcome.reason)


@pytest.mark.parametrize(
    "source",
    [
        "import builtins\nbuiltins.AssertionError = ValueError" + WRONG,
        "def check(*given): return True" + WRONG,
        "import builtins as b\nb.__build_class__ = b.compile = b.exec = print" + WRONG,
        "class Any(int):\n    __eq__ = lambda s, o: True" + WRONG.replace("0", "Any(0)"),
        "class Any:\n    __eq__ = lambda s, o: True" + WRONG.replace("0", "Any()"),
        "from unittest.mock import ANY" + WRONG.replace("0", "ANY"),
        "import sys\nsys.settrace(print)\nsys.setprofile(print)" + WRONG,
    ],
    ids=["assert", "check", "built-ins", "equal number", "equal object", "ANY", "trace"],
)
def test_what_a_program_does_to_its_own_interpreter_does_not_reach_the_tests(source: str) -> None:
    assert judged(source) == Outcome(False, "wrong answer")


def test_only_the_names_that_were_asked_for_are_the_programs() -> None:
    source = "def sorted(x): return 0\ndef helper(x): return 0\ndef answer(): return [3, 1, 2]"
    checks = Checks("assert sorted(answer()) == helper([])", ("answer",), "def helper(x): return 7")
    assert judged(source, checks) == Outcome(False, "wrong answer")


FORGERIES = {
    "writes to every descriptor": """
import os, json
for number in range(200):
    for text in (b'{"token": ""}\\n', b'{"token": "0"}\\n', b'["value", null]\\n'):
        try: os.write(number, text)
        except OSError: pass
def answer(): return 0
""",
    "answers every question itself": """
import os, socket
def answer():
    for number in range(3, 200):
        try: s = socket.socket(fileno=os.dup(number))
        except OSError: continue
        while True: s.sendall(b'["value", ["i", "0x2a"]]\\n' * 9)
""",
    "sends what is no message": """
import os
for number in range(3, 200):
    try: os.write(number, b"[" * 100000 + b"\\n")
    except OSError: pass
def answer(): return 0
""",
    "sends a message without an end": """
import os
def answer():
    for number in range(3, 200):
        try:
            while True: os.write(number, b"[" * 2**16)
        except OSError: pass
""",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_success_cannot_be_forged(name: str) -> None:
    checks = Checks("assert answer() == 43 and answer() == 44", ("answer",))
    assert not judged(FORGERIES[name], checks, seconds=6.0).passed


SEARCH = """
import ctypes, gc, sys
# Spelt backwards, or the search would find itself.
wanted = ("nekot-eht", "rewsna-eht", "tuo-siht")
this_out = "this" + "-out"
def answer():
    seen, frame = [], sys._getframe()
    while frame:
        seen += [repr(value) for value in frame.f_locals.values()]
        frame = frame.f_back
    seen += [repr(item) for item in gc.get_objects() if isinstance(item, (dict, list, tuple))]
    return [word for word in wanted if any(word[::-1] in text for text in seen)]
"""


def test_neither_the_token_nor_the_tests_are_in_the_programs_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert judged(SEARCH, Checks("answer()", ("answer",))).passed
    monkeypatch.setattr("secrets.token_hex", lambda count: "the-token")
    tests = "the_answer = 'the-answer'\nassert answer() == ['tuo-siht']"
    assert judged(SEARCH, Checks(tests, ("answer",))) == Outcome(True)
