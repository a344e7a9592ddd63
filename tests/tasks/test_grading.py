"""Grading: real gold answers, the known traps, and answers that attack the grader."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tandem.tasks import grading
from tandem.tasks.base import Prompt
from tandem.tasks.grading import GradingPool, Verdict, last_boxed
from tandem.tasks.grading_worker import check_antlr
from tandem.tasks.math import Math


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    pool = GradingPool(workers=1, limit=2)
    yield pool
    pool.close()


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{7}", "7"),
        (r"\boxed{3} then \boxed{ \frac{1}{2} }", r"\frac{1}{2}"),
        (r"first \boxed{7}, then \boxed{8", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed 7", None),
        ("I tried 3, 5 and 7", None),
        ("", None),
    ],
)
def test_the_last_balanced_box_is_the_answer(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


def test_the_known_traps(pool: GradingPool) -> None:
    cases = [
        ("50\\%", "50\\%", True),
        ("0.5", "50\\%", True),
        ("\\frac{1}{2}", "0.5", True),
        ("72", "72.0", True),
        ("7", "3, 5, 7", False),
        ("(1,2)", "(2,1)", False),
        ("1", "10^{10^{10}}", False),
        ("7", "1000000!", False),
        ("7", "{" * 300 + "}" * 299, False),
        ("7", "", False),
        ("7", "\ud800", False),
    ]
    start = time.monotonic()
    verdicts = pool.grade([(gold, answer) for gold, answer, _ in cases])
    assert [v.right for v in verdicts] == [right for _, _, right in cases]
    assert time.monotonic() - start < 60.0


def test_long_answers_are_not_even_parsed(pool: GradingPool) -> None:
    start = time.monotonic()
    assert pool.grade([("7", "7" * 1_000_000)]) == [Verdict(False, "too long")]
    assert time.monotonic() - start < 0.5


def test_a_worker_that_hangs_is_killed_and_replaced_and_others_are_graded(
    pool: GradingPool,
) -> None:
    assert pool.grade([("1", "1")])[0].right
    worker, before = pool._workers[0], pool.replaced
    os.kill(worker.process.pid, signal.SIGSTOP)
    verdicts = pool.grade([("90011", "90011"), ("90012", "90012")])
    assert verdicts == [Verdict(False, "timeout"), Verdict(True)]
    assert pool.replaced == before + 1
    assert worker.process.poll() == -signal.SIGKILL


def test_a_worker_that_dies_is_replaced(pool: GradingPool) -> None:
    assert pool.grade([("21", "21")])[0].right
    worker = pool._workers[0]
    os.kill(worker.process.pid, signal.SIGSTOP)  # or it might answer first
    worker.ask(("90022", "90022"), limit=2, patience=60.0)
    worker.process.kill()
    worker.process.wait()
    assert pool.grade([("23", "23")])[0].right
    assert pool._cache[("90022", "90022")] == Verdict(False, "crashed")


def test_verdicts_are_cached(pool: GradingPool) -> None:
    pairs = [("31", "31.0"), ("31", "32")] * 50
    first = pool.grade(pairs)
    pool.close()
    start = time.monotonic()
    assert pool.grade(pairs) == first
    assert time.monotonic() - start < 0.2, "a new worker takes longer than that to start"


def test_another_antlr_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.tasks.grading_worker.version", lambda _: "4.11.0")
    with pytest.raises(RuntimeError, match=r"is 4\.11\.0, but .* only read right with 4\.13\.2"):
        check_antlr()
    assert metadata.version("antlr4-python3-runtime") == "4.13.2"


def test_a_box_is_required(pool: GradingPool) -> None:
    task = Math(train="unused.jsonl", workers=1)
    prompt = Prompt(id="a", messages=({"role": "user", "content": "?"},), answer="7")
    bare, boxed, wrong = task.grade_many(
        [(prompt, "I tried 3, 5 and 7"), (prompt, r"so \boxed{7}."), (prompt, r"\boxed{8}")]
    )
    task._pool.close()
    assert (bare.correct, bare.answered, bare.reason) == (False, False, "no answer")
    assert boxed.correct and boxed.answered
    assert not wrong.correct and wrong.answered


def test_a_script_without_a_main_guard_grades_and_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from tandem.tasks.grading import GradingPool\n"
        "pool = GradingPool(workers=1)\n"
        "print(pool.grade([('1', '1')])[0].right, pool._workers[0].process.pid)\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    right, pid = run.stdout.split()
    assert right == "True"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_workers_import_no_torch() -> None:
    code = "import sys, tandem.tasks.grading_worker; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.data
@pytest.mark.parametrize("name", ["math500", "gsm8k_test", "aime24", "amc23"])
def test_real_gold_answers_equal_themselves(name: str, test_data: Path, pool: GradingPool) -> None:
    lines = (test_data / name / "problems.jsonl").read_text("utf-8").split("\n")
    answers = [str(json.loads(line)["answer"]) for line in lines if line][:60]
    verdicts = pool.grade([(answer, answer) for answer in answers])
    assert [a for a, v in zip(answers, verdicts, strict=True) if not v.right] == []
    assert max(map(len, answers)) < grading.LONGEST
