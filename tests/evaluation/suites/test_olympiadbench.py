"""OlympiadBench's answers: dollars inside, several parts, a unit, a tolerance."""

from __future__ import annotations

import pytest

from tandem.evaluation.suites.olympiadbench import OlympiadBench, parts_of, without_dollars

SUITE = OlympiadBench(workers=1)


def right(final: str, answer: str, *, several: bool = False, error: str | None = None) -> bool:
    row = {
        "id": 1,
        "question": "?",
        "final_answer": [final],
        "is_multiple_answer": several,
        "error": error,
    }
    return SUITE.grade(SUITE.problem_of(row, 0), f"so \\boxed{{{answer}}}").correct


def test_dollars_mark_mathematics_and_escaped_ones_money() -> None:
    assert without_dollars("$221,$8$") == "221,8"
    assert without_dollars("$a$, where $b$ is") == "a, where b is"
    assert without_dollars(r"\$5") == r"\$5"


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        ("$69$,$84$", ["69", "84"]),
        ("(1,1), (3,2)", ["(1,1)", "(3,2)"]),
        (r"\left(1,2\right),\left(3,4\right)", ["(1,2)", "(3,4)"]),
        (r"\{1, 2\}", ["1", "2"]),
        (r"1 \text{ and } 2", ["1", "2"]),
        ("1 or 2; 3", ["1", "2", "3"]),
        (r"3 \pm \sqrt{2}", [r"3 + \sqrt{2}", r"3 - \sqrt{2}"]),
        (r"\pm 2", ["2", "- 2"]),
        (r"\frac{1}{2}, \sqrt{x}", [r"\frac{1}{2}", r"\sqrt{x}"]),
        ("5", ["5"]),
        ("", []),
    ],
)
def test_parts_are_told_apart_outside_all_brackets(answer: str, parts: list[str]) -> None:
    assert parts_of(answer) == parts


@pytest.mark.parametrize(
    ("final", "answer", "verdict"),
    [
        ("$221,$8$", "8, 221", True),
        ("$221,$8$", "8,221", True),
        ("$221,$8$", "221", False),
        ("$221,$8$", "221, 8, 8", False),
        ("16,3,1,1", "1, 1, 3, 16", True),
        ("16,3,1,1", "1, 3, 3, 16", False),
        ("$(1,1), (3,2)$", "(3,2) \\text{ and } (1,1)", True),
        ("$(1,1), (3,2)$", "(1,3), (1,2)", False),
        ("$a=2$, $a=-6-4 \\sqrt{2}$", "2, -6-4\\sqrt{2}", True),
        ("$a=2$, $a=-6-4 \\sqrt{2}$", "a=-6-4\\sqrt{2}, a=2", True),
        ("$f(x)=x,f(x)=-x$", "f(x)=\\pm x", True),
        ("$f(x)=-1$,$f(x)=x+1$", "x+1, -1", True),
        ("$90^{\\circ}$,$60^{\\circ}$", "60^\\circ, 90^\\circ", True),
        ("$\\frac{32}{9}$,$\\frac{1}{2}$", "0.5, \\frac{32}{9}", True),
    ],
)
def test_several_answers_are_each_given_once_in_any_order(
    final: str, answer: str, verdict: bool
) -> None:
    assert right(final, answer, several=True) is verdict


def test_one_answer_keeps_its_order() -> None:
    assert right("$(3,2)$", "(3,2)") and not right("$(3,2)$", "(2,3)")
    assert right("$t(0,4]$", "(0,4]") and not right("$t(0,4]$", "[0,4)")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [("4.2", True), ("4.2\\%", True), ("4.3", True), ("4.1", True), ("4.31", False), ("x", False)],
)
def test_a_tolerance_is_absolute_and_holds_its_edges(answer: str, verdict: bool) -> None:
    assert right("4.2", answer, error="1e-1") is verdict
    assert right("4.2", answer) is (verdict and answer.startswith("4.2"))


def test_a_unit_beside_the_gold_may_stand_in_the_box() -> None:
    assert right("$\\frac{600}{7}$", "\\frac{600}{7} \\text{ km/h}")
    assert right("$166$", "166 \\mathrm{~cm}^2")


def test_the_context_comes_before_the_question() -> None:
    row = {"id": 5, "context": "Let n = 2.", "question": "n?", "final_answer": ["2"]}
    assert SUITE.problem_of(row, 0).text == "Let n = 2.\nn?"
