"""Spellings: what is mended before math-verify reads an answer, and how votes are counted."""

from __future__ import annotations

import time

import pytest

from tandem.tasks.spelling import (
    is_formula,
    number,
    plain,
    readings,
    same_in_base,
    same_integer,
    vote,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72.0),
        ("-72.50", -72.5),
        ("1,234,567", 1_234_567.0),
        (r"1{,}234", 1234.0),
        (r"\$32,\!348", 32_348.0),
        (r"4.5 \times 10^{33}", 4.5e33),
        (r"4.5\cdot 10^3 \text{ J}", 4500.0),
        ("4.5e-3", 0.0045),
        (r"\frac{3}{4}", 0.75),
        (r"\dfrac{-3}{4}", -0.75),
        ("3/4", 0.75),
        (r"12\%", 12.0),
        (r"90^\circ", 90.0),
        (r"27 \text{ miles per hour}", 27.0),
        (r"3 \text{ million}", 3e6),
        ("1/0", None),
        ("1e999", None),
        ("x", None),
        ("1,2", None),
        ("", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_a_number_has_one_value_however_it_is_written(text: str, value: float | None) -> None:
    assert number(text) == (None if value is None else pytest.approx(value, rel=1e-12))


def test_votes_for_one_answer_are_one_whatever_its_spelling() -> None:
    assert len({vote(t) for t in ("72", "72.0", "72.", r"72 \text{ miles}", r"\,72")}) == 1
    assert len({vote(t) for t in (r"\frac{x}{2}", r"\dfrac{x}{2}", r"\frac{ x }{2}")}) == 1
    assert len({vote(t) for t in (r"\left(1,2\right)", "(1, 2)", "(1,2)")}) == 1
    assert vote("(1,2)") != vote("(2,1)") and vote("x") != vote("y")


def test_plain_spellings_stay_as_they_are() -> None:
    for text in (r"\frac{1}{2}", "(1,2)", r"x^2+1", r"\{1,2\}", r"50\%", "7.5", "1,234", "e^{-t}"):
        assert plain(text) == text


def test_letters_make_a_formula_and_words_and_commands_do_not() -> None:
    assert is_formula("6m") and is_formula(r"\frac{1}{m}") and is_formula("f(x)=2x")
    assert not is_formula(r"5.4 \text{ cents}") and not is_formula(r"\frac{\pi}{2}")
    assert is_formula("2ab") and not is_formula("10 cm") and not is_formula("3 miles per hour")
    assert not is_formula("4.5e33") and not is_formula(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}")


def test_a_number_in_a_base_is_compared_by_its_digits() -> None:
    assert same_in_base("52_8", "52_{8}") and same_in_base("52_{8}", "52")
    assert same_in_base("52_8", "52_9") is False and same_in_base("52_8", "42") is False
    assert same_in_base("x_8", "x_8") is None and same_in_base("52", "52_8") is None


def test_whole_numbers_are_compared_by_their_value() -> None:
    assert same_integer("72", "072") and same_integer("58,500", "58500") and same_integer("0", "-0")
    assert same_integer("72", "73") is False and same_integer("72", "-72") is False
    assert same_integer("1" * 900, "1" * 899 + "2") is False
    for answer in ("72.0", "1,2", "7 2", r"72\%", "x", ""):
        assert same_integer("72", answer) is None, "not for whole numbers alone to say"


def test_the_pair_as_written_is_read_first() -> None:
    assert readings("5", "x=5")[0] == ("5", "x=5")
    assert ("n^2", "n^2") in readings(r"m_{\max }=n^2", "n^2")
    assert ("4.2", "4.2") in readings("4.2", r"4.2\%")


@pytest.mark.parametrize("unit", ["1 ", "1\\,", "√", "\\text{", "(", "a_", "1e", "{,}", "1 000 "])
def test_the_longest_answers_are_read_at_once(unit: str) -> None:
    text = unit * (1_000 // len(unit))
    start = time.monotonic()
    readings(text, text)
    vote(text)
    # Milliseconds; a rule that backtracks would take hours.
    assert time.monotonic() - start < 1.0
