"""What the sandbox runs, and what it says of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.evaluation.sandbox import (
    Checks,
    Limits,
    Outcome,
    Program,
    Sandbox,
    SandboxError,
    isolation,
    sandbox,
)

DOUBLE = Program("def double(x):\n    return 2 * x", Checks("assert double(3) == 6", ("double",)))


def run(source: str, tests: str, *names: str, before: str = "", **limits: float) -> Outcome:
    program = Program(source, Checks(tests, names, before))
    return Sandbox(Limits(**limits)).run_many([program])[0]  # pyright: ignore[reportArgumentType]


def script(source: str, stdin: str = "", **limits: float) -> Outcome:
    chosen = Limits(**limits)  # pyright: ignore[reportArgumentType]
    return Sandbox(chosen).run_many([Program(source, stdin=stdin)])[0]


def test_this_machine_isolates_programs() -> None:
    assert isolation().holds, isolation().refused


def test_a_right_program_passes_and_a_wrong_one_says_so() -> None:
    wrong = Program("def double(x):\n    return x", DOUBLE.tests)
    broken = Program("def double(x): return 2 *", DOUBLE.tests)
    missing = Program("", DOUBLE.tests)
    raising = Program("def double(x): return [][x]", DOUBLE.tests)
    assert Sandbox().run_many([DOUBLE, wrong, broken, missing, raising]) == [
        Outcome(True),
        Outcome(False, "wrong answer"),
        Outcome(False, "error: SyntaxError"),
        Outcome(False, "error: KeyError"),
        Outcome(False, "error: IndexError"),
    ]


def test_a_script_reads_its_input_and_its_output_comes_back() -> None:
    source = "import sys\nfor line in sys.stdin: print(line.strip()[::-1])\nprint('done')"
    assert script(source, "aé\nβγ\n") == Outcome(True, "", "éa\nγβ\ndone\n")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ValueError", "exit status 1"),
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os._exit(7)", "exit status 7"),
        ("import os, signal; os.abort()", "exit status"),
        ("while True: pass", "timeout"),
    ],
)
def test_a_script_that_does_not_end_well_says_how(source: str, reason: str) -> None:
    outcome = script(source, seconds=1.0)
    assert not outcome.passed and outcome.reason.startswith(reason)


def test_a_script_may_end_by_exit_by_threads_and_by_what_it_registered() -> None:
    source = """
import atexit, threading, time
atexit.register(print, "last")
threading.Thread(target=lambda: (time.sleep(0.1), print("second"))).start()
print("first")
exit(0)
"""
    assert script(source) == Outcome(True, "", "first\nsecond\nlast\n")


PLAIN = [
    *(None, True, 0, -7, 2**70, 1.5, -0.0, float("inf"), 2 + 3j, "ä\n\ud800", b"\x00\xff"),
    *([1, [2, []]], (1, (2,)), {1, "a"}, frozenset({(1, 2)}), {"k": [1], (1, 2): {3: None}}),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_values_cross_to_the_program_and_back_unchanged(value: object) -> None:
    before = "inf = float('inf')"
    same = f"assert same({value!r}) == {value!r}"
    assert run("def same(x): return x", same, "same", before=before).passed
    kind = type(value).__name__
    seen = f"assert kind({value!r}) == {kind!r}"
    assert run("def kind(x): return type(x).__name__", seen, "kind", before=before).passed


def test_objects_of_the_program_are_used_where_they_are() -> None:
    source = """
class Node:
    def __init__(self, value): self.value, self.left = value, None
def depth(node): return 0 if node is None else 1 + depth(node.left)
def up_to(n):
    for k in range(n): yield Node(k)
"""
    tests = """
root = Node(1)
root.left = Node(2)
assert depth(root) == 2 and root.left.value == 2
assert [node.value for node in up_to(3)] == [0, 1, 2]
assert root != Node(1) and root == root
"""
    assert run(source, tests, "Node", "depth", "up_to") == Outcome(True)


def test_tests_may_expect_an_exception_and_use_what_stands_before() -> None:
    tests = """
try:
    half("x")
    raise AssertionError
except TypeError:
    pass
assert half(four()) == 2 and math.isclose(half(1), 0.5)
"""
    before = "import math\ndef four(): return 4\ndef half(x): return None"
    assert run("def half(x): return x / 2", tests, "half", before=before) == Outcome(True)


def test_outcomes_come_in_order_and_equal_programs_run_once() -> None:
    programs = [Program(f"print({n % 3})") for n in range(9)]
    told: list[tuple[int, int]] = []
    found = Sandbox().run_many(programs, progress=lambda done, total: told.append((done, total)))
    assert [outcome.stdout for outcome in found] == [f"{n % 3}\n" for n in range(9)]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_sets_of_words_iterate_alike_in_every_run() -> None:
    source = "print({chr(97 + n) * 3 for n in range(20)})"
    outcomes = [sandbox._run(Program(source), Limits(), isolated=True) for _ in range(3)]
    assert len({outcome.stdout for outcome in outcomes}) == 1


def test_a_program_starts_with_the_standard_library_and_nothing_of_ours() -> None:
    source = """
import sys
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("torch", "numpy")))
for name in ("torch", "numpy", "pydantic", "tandem.types"):
    try: __import__(name)
    except ImportError: print("no", name)
import asyncio, bz2, ctypes, decimal, heapq, hashlib, sqlite3, ssl, statistics, zoneinfo
"""
    found = script(source)
    assert found == Outcome(True, "", "[]\nno torch\nno numpy\nno pydantic\nno tandem.types\n")


def test_without_isolation_programs_run_only_where_that_is_allowed(
    no_namespaces: None,
) -> None:
    assert not isolation().holds and "no such kernel" in isolation().refused
    with pytest.raises(ValueError, match=r"cannot be isolated here.*allow_unisolated"):
        Sandbox().run_many([DOUBLE])
    assert Sandbox(allow_unisolated=True).run_many([DOUBLE]) == [Outcome(True)]


@pytest.fixture
def no_namespaces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every run that asks for isolation is refused, as by a kernel without namespaces."""
    run = sandbox._run

    def refuse(program: Program, limits: Limits, *, isolated: bool) -> Outcome:
        if isolated:
            raise SandboxError("no such kernel")
        return run(program, limits, isolated=isolated)

    monkeypatch.setattr(sandbox, "_run", refuse)
    sandbox.isolation.cache_clear()
    sandbox._probe.cache_clear()
    yield
    sandbox.isolation.cache_clear()
    sandbox._probe.cache_clear()


def test_elsewhere_than_on_linux_no_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.isolation.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match="on Linux only, and this is darwin"):
        Sandbox(allow_unisolated=True).run_many([DOUBLE])
    sandbox.isolation.cache_clear()


def test_a_sandbox_that_cannot_start_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isolation().holds
    monkeypatch.setattr(sandbox, "_libraries", lambda: ("/nowhere",))
    monkeypatch.setattr(sandbox.time, "sleep", lambda seconds: None)
    with pytest.raises(SandboxError, match="mount"):
        Sandbox().run_many([DOUBLE])


def test_a_caller_that_is_killed_leaves_no_program_behind(tmp_path: Path) -> None:
    word = f"left-behind-{os.getpid()}"
    caller = f"""
from tandem.evaluation.sandbox import Program, Sandbox
Sandbox().isolated()
print("running", flush=True)
Sandbox().run_many([Program("while True: pass  # {word}")])
"""
    with subprocess.Popen([sys.executable, "-c", caller], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"running\n"
        time.sleep(0.5)
        running = stages()
        assert running
        process.kill()
    until = time.monotonic() + 10.0
    while running & stages() and time.monotonic() < until:
        time.sleep(0.05)
    assert not running & stages()


def stages() -> set[str]:
    """Numbers of all processes that stand between a caller and a program, or are the program."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"tandem.evaluation.sandbox.stage" in command:
                found.add(entry.name)
    return found
