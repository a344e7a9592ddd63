"""Repetition: worked numbers, and a loop told from text that repeats itself here and there."""

from __future__ import annotations

import itertools
import random

import pytest

from tandem.evaluation.repetition import looping_tail, pieces, repeats


def test_pieces_are_words_and_signs() -> None:
    assert pieces("so 3+4 = {ab}.") == ["so", "3", "+", "4", "=", "{", "ab", "}", "."]


def test_the_share_of_repeated_n_grams_is_worked_by_hand() -> None:
    # Bigrams of a b a b a: ab ba ab ba; two of four are new.
    assert repeats("a b a b a", n=2) == pytest.approx(0.5)
    # Four-grams of one word five times: two, one new.
    assert repeats("a a a a a") == pytest.approx(0.5)
    assert repeats("all of these words differ") == 0.0
    assert repeats("too short") == 0.0 and repeats("") == 0.0


def test_the_more_a_text_loops_the_more_it_repeats() -> None:
    once = "we add the two numbers and carry one. "
    shares = [repeats(once * times) for times in (1, 2, 4, 64)]
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] > 0.95


def test_a_loop_counts_from_where_it_begins() -> None:
    start = " ".join(f"w{i}" for i in range(60))
    # 20 turns of "wait , no ." end it, the last one cut after a piece: 60 + 81 pieces.
    stuck = f"{start} {'wait, no. ' * 20} wait"
    assert looping_tail(stuck) == pytest.approx(81 / 141)
    assert looping_tail(f"{stuck} so the answer is 4") == 0.0


def test_a_loop_needs_four_turns_and_32_pieces() -> None:
    unit = " ".join(f"u{i}" for i in range(20)) + " "
    assert looping_tail(unit * 4) == 1.0
    assert looping_tail(unit * 3) == 0.0
    assert looping_tail("ha " * 31) == 0.0 and looping_tail("ha " * 32) == 1.0
    assert looping_tail("") == 0.0


def naive(words: list[str]) -> int:
    """Longest looping suffix, trying every length and every unit."""
    longest = 0
    for length, unit in itertools.product(range(32, len(words) + 1), range(1, len(words))):
        tail = words[len(words) - length :]
        periodic = all(a == b for a, b in zip(tail, tail[unit:], strict=False))
        if unit * 4 <= length and periodic:
            longest = max(longest, length)
    return longest


def test_loops_are_those_that_trying_everything_finds() -> None:
    source = random.Random(0)
    found = set()
    for _ in range(60):
        head = source.choices("abc", k=source.randrange(12))
        unit = source.choices("ab", k=source.randrange(1, 12))
        words = (head + unit * source.randrange(1, 12))[: source.randrange(30, 60)]
        share = looping_tail(" ".join(words))
        assert share == pytest.approx(naive(words) / len(words))
        found.add(share > 0)
    assert found == {True, False}


def test_a_long_text_is_searched_in_linear_time() -> None:
    assert looping_tail("x y " * 100_000) == 1.0
