"""What is seen of suites: lines with the time left, and the table."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tandem.evaluation.evaluate import EvaluationResult
from tandem.evaluation.intervals import Interval
from tandem.evaluation.majority import Majority
from tandem.evaluation.suite_result import SuiteResult
from tandem.front.suite_view import lines, notes, table, watching


def result(suite: str, *, samples: int = 8, dropped: int = 0, left_out: int = 0) -> SuiteResult:
    at_1 = EvaluationResult(
        pass_at_1=Interval(0.5, 0.4, 0.61),
        scores={"a": 0.25, "b": 0.75},
        samples=samples,
        dropped=dropped,
        mean_length=1234.56,
        truncated=0.125,
        no_answer=0.0,
        shown=(),
    )
    return SuiteResult(
        suite=suite,
        at_1=at_1,
        passed={1: Interval(0.5, 0.4, 0.61), samples: Interval(1.0, 0.9, 1.0)},
        majority={4: Majority(Interval(0.6, 0.5, 0.7), ties=0.1, silent=0.0)},
        repeated=0.01,
        looping=0.25,
        left_out=left_out,
    )


def test_the_table_lines_up_and_says_of_which_k() -> None:
    head, first, second = table([result("math500"), result("olympiadbench", samples=512)])
    assert " ".join(head.split()) == "suite problems pass@1 pass@k maj@k tokens cut no answer loops"
    assert first.split("  ")[0] == "math500" and "2 × 8 " in first and "2 × 512" in second
    for line in (first, second):
        assert line.index("50.0 [40.0, 61.0]") == head.index("pass@1")
        assert "4: 60.0 [50.0, 70.0]" in line and "1,234.6" in line
        assert line.endswith("12.5 %  0.0 %      25.0 %")
    assert "8: 100.0 [90.0, 100.0]" in first and "512: 100.0 [90.0, 100.0]" in second


def test_problems_that_were_not_asked_are_told() -> None:
    assert notes([result("gsm8k")]) == []
    assert notes([result("gsm8k", dropped=3, left_out=9)]) == [
        "gsm8k: 3 problems over the prompt limit",
        "gsm8k: 9 problems not asked (limits.problems)",
    ]


def test_off_a_terminal_a_line_now_and_then_says_how_long_it_takes() -> None:
    written = io.StringIO()
    moments = iter([10.0, 26.0, 30.0, 60.0, 110.0])
    show = lines("gsm8k: answers", Console(file=written), now=lambda: next(moments))
    # 100 were kept from before: they say nothing about the speed.
    show(100, 200)
    show(110, 200)
    show(120, 200)
    show(150, 200)
    show(200, 200)
    assert written.getvalue().splitlines() == [
        "gsm8k: answers 110/200, 2:24 left",
        "gsm8k: answers 150/200, 0:50 left",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_phases_are_watched_one_after_the_other(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with watching(console) as watch:
        first, second = watch("answers"), watch("graded")
        for done in range(4):
            first(done, 3)
        second(3, 3)
    written = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert ("answers" in written and "3/3" in written) is terminal
