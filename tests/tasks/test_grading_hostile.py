"""What the grader survives: dead workers, hostile text, an interrupted or killed caller."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tandem.tasks.base import Prompt
from tandem.tasks.grading import GradingPool, Verdict, _Worker, last_boxed
from tandem.tasks.math import Math


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    pool = GradingPool(workers=2, limit=2)
    yield pool
    pool.close()


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{a \\}", r"a \\"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {5}", "5"),
        (r"{ \boxed{5} }}}", "5"),
        (r"\boxed{{5}", None),
        (r"\boxed{}", ""),
        ("\\", None),
    ],
)
def test_printed_braces_need_not_be_paired_and_others_must(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize("unit", ["\\boxed{", "{", "}", "\\", "\\boxed ", "\\boxed{1}"])
def test_a_megabyte_of_any_brace_costs_a_single_pass(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    start = time.monotonic()
    last_boxed(text)
    # One pass takes 0.1 to 0.6 s; a scan from every box takes hours.
    assert time.monotonic() - start < 10.0


def test_workers_that_died_while_idle_are_replaced_and_no_answer_is_lost(pool: GradingPool) -> None:
    assert all(v.right for v in pool.grade([("1", "1"), ("2", "2"), ("3", "3")]))
    for worker in pool._workers:
        worker.process.kill()
        worker.process.wait()
    assert pool.grade([(str(n), f"{n}.0") for n in range(11, 15)]) == [Verdict(True)] * 4


def test_a_worker_killed_while_it_starts_is_replaced() -> None:
    pool = GradingPool(workers=1)
    pool._workers.append(_Worker())
    pool._workers[0].process.kill()
    assert pool.grade([("1", "1.0")]) == [Verdict(True)]
    assert pool.replaced == 1
    pool.close()


def test_workers_that_never_start_end_the_run_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = GradingPool(workers=1)
    with pytest.raises(RuntimeError, match="did not start 3 times in a row; run python -m tandem"):
        pool.grade([("1", "1.0")])
    pool.close()


@pytest.mark.parametrize("answer", ["10^{10^{10}}", "1000000!", r"\binom{10^9}{5\cdot10^8}"])
def test_an_answer_that_takes_too_long_is_wrong_and_says_so(answer: str, pool: GradingPool) -> None:
    start = time.monotonic()
    assert pool.grade([("7", answer)]) == [Verdict(False, "timeout")]
    assert time.monotonic() - start < 3 * pool.limit + 5
    assert pool.grade([("8", "8.0")]) == [Verdict(True)]


def test_the_reference_comes_first(pool: GradingPool) -> None:
    # A solution set may be given as an interval; a wanted interval may not be a relation.
    assert pool.grade([("1 < x < 2", "(1,2)")]) == [Verdict(True)]
    assert pool.grade([("(1,2)", "1 < x < 2")]) == [Verdict(False)]


def test_a_task_that_has_graded_is_still_plain_settings() -> None:
    task = Math(train="unused.jsonl")
    prompt = Prompt(id="a", messages=({"role": "user", "content": "?"},), answer="7")
    assert task.grade(prompt, r"\boxed{7}").correct
    assert pickle.loads(pickle.dumps(task)) == copy.deepcopy(task) == task


# A shell's background job inherits an ignored SIGINT; a terminal's program does not.
SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tandem.tasks.grading import GradingPool
pool = GradingPool(workers=1, limit=20)
pool.grade([("1", "1")])
print(pool._workers[0].process.pid, flush=True)
pool.grade([("7", "10^{10^{10}}")])
"""


def _graded_by_a_script(tmp_path: Path, end: Callable[[int], None]) -> tuple[int, int]:
    """Start a script that is busy grading, `end` it, and return its exit code and its worker."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # A session of its own: the group that a terminal's Ctrl-C would reach.
    caller = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert caller.stdout is not None
    worker = int(caller.stdout.readline())
    time.sleep(0.5)
    end(caller.pid)
    code = caller.wait(timeout=30)
    caller.stdout.close()
    return code, worker


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An orphan that has ended may wait for its new parent to notice.
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_ctrl_c_while_grading_leaves_no_process(tmp_path: Path) -> None:
    code, worker = _graded_by_a_script(tmp_path, lambda pid: os.killpg(pid, signal.SIGINT))
    assert code == -signal.SIGINT, "the caller sees an ordinary KeyboardInterrupt"
    assert not _lives(worker)


@pytest.mark.slow
def test_a_killed_caller_leaves_no_process_for_longer_than_the_limit(tmp_path: Path) -> None:
    code, worker = _graded_by_a_script(tmp_path, lambda pid: os.kill(pid, signal.SIGKILL))
    assert code == -signal.SIGKILL
    deadline = time.monotonic() + 3 * 20 + 15
    while _lives(worker) and time.monotonic() < deadline:
        time.sleep(1.0)
    assert not _lives(worker)


@pytest.mark.slow
def test_a_worker_that_nobody_can_kill_any_more_ends_itself() -> None:
    # A limit of 0 switches math-verify's own alarm off: only the last resort (5 s) is left.
    worker = subprocess.Popen(
        [sys.executable, "-m", "tandem.tasks.grading_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert worker.stdin is not None
    worker.stdin.write(b'{"gold": "7", "answer": "10^{10^{10}}", "limit": 0}\n')
    worker.stdin.flush()
    assert worker.wait(timeout=60) == 1
    worker.stdin.close()
