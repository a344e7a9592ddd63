"""pass@k, maj@k, rates and lengths: worked numbers, enumeration of subsets, invariances."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import pytest

from tandem.evaluation.estimates import (
    majority_at_k,
    mean_length,
    pass_at_k,
    rate,
    solved_within,
)
from tandem.evaluation.intervals import mean_interval, wilson
from tandem.evaluation.majority import vote
from tandem.tasks.base import Grade


def answers(text: str, *, gold: str = "R") -> list[Grade]:
    """One completion a letter; "-" gave no answer."""
    return [
        Grade(letter == gold, letter != "-", answer="" if letter == "-" else letter)
        for letter in text
    ]


def test_pass_at_k_matches_values_worked_by_hand() -> None:
    # 2 right of 5: 1 − C(3, 2)/C(5, 2) = 1 − 3/10; 1 − C(3, 3)/C(5, 3) = 1 − 1/10.
    assert solved_within(1, samples=5, right=2) == pytest.approx(0.4)
    assert solved_within(2, samples=5, right=2) == pytest.approx(0.7)
    assert solved_within(3, samples=5, right=2) == pytest.approx(0.9)
    assert solved_within(4, samples=5, right=2) == 1.0
    assert solved_within(5, samples=5, right=0) == 0.0


@pytest.mark.parametrize("samples", range(1, 7))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(samples: int) -> None:
    for right in range(samples + 1):
        marks = [i < right for i in range(samples)]
        for k in range(1, samples + 1):
            subsets = list(itertools.combinations(marks, k))
            share = fmean(any(subset) for subset in subsets)
            assert solved_within(k, samples=samples, right=right) == pytest.approx(share)


def test_pass_at_k_of_many_samples_neither_overflows_nor_cancels() -> None:
    # One right of 100,000: a subset of k holds it with probability k / n exactly.
    assert solved_within(50_000, samples=100_000, right=1) == pytest.approx(0.5, rel=1e-9)
    assert solved_within(1, samples=10**6, right=1) == pytest.approx(1e-6, rel=1e-6)


def test_pass_at_k_is_unbiased() -> None:
    # A problem solved with p = .3: pass@4 = 1 − .7⁴ = .7599, from 8 samples each.
    right = np.random.default_rng(0).binomial(8, 0.3, size=20_000)
    found = fmean(solved_within(4, samples=8, right=int(c)) for c in right)
    assert found == pytest.approx(0.7599, abs=0.008)


def test_pass_at_k_over_problems_has_the_interval_of_its_scores() -> None:
    grades = {"a": answers("RXXX"), "b": answers("RRXX"), "c": answers("XXXX")}
    # 1 − C(3,2)/6 = 1/2; 1 − C(2,2)/6 = 5/6; 0.
    expected = mean_interval([0.5, 5 / 6, 0.0], samples=4)
    found = pass_at_k(grades, k=2)
    assert found.mean == pytest.approx(4 / 9)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert pass_at_k(grades, k=1).mean == pytest.approx(0.25)
    # One subset of each problem is one sample of it.
    assert pass_at_k(grades, k=4) == wilson(2 / 3, 3)


def brute(given: Sequence[Grade], k: int) -> tuple[float, float, float]:
    """right, tied, silent by taking every subset and every way to break its tie."""
    right, tied, silent = [], [], []
    for subset in itertools.combinations(given, k):
        votes = Counter(one.answer for one in subset if one.answer)
        most = max(votes.values(), default=0)
        first = [answer for answer, count in votes.items() if count == most]
        graded = [fmean(one.correct for one in given if one.answer == answer) for answer in first]
        right.append(fmean(graded) if first else 0.0)
        tied.append(len(first) > 1)
        silent.append(not first)
    return fmean(right), fmean(tied), fmean(silent)


def test_majority_matches_values_worked_by_hand() -> None:
    # Of R R X two are drawn: RR, RX, RX. One is right, two are ties of chance 1/2: 1/3 + 2/3 · 1/2.
    pair = vote(answers("RRX"), k=2)
    assert (pair.right, pair.tied, pair.silent) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 0.0)
    everyone = vote(answers("RRX"), k=3)
    assert (everyone.right, everyone.tied) == (1.0, 0.0)
    # Those without an answer do not vote: R wins against four silent ones.
    assert vote(answers("R----"), k=5).right == 1.0
    assert vote(answers("---"), k=2).silent == 1.0


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6])
def test_majority_is_the_mean_over_all_subsets(size: int) -> None:
    for text in itertools.combinations_with_replacement("RXYZ-", size):
        given = answers("".join(text))
        for k in range(1, size + 1):
            found = vote(given, k=k)
            assert (found.right, found.tied, found.silent) == pytest.approx(brute(given, k))


def test_majority_of_larger_counts_is_the_mean_over_all_subsets() -> None:
    given = answers("RRRRXXXXYYZ--")
    for k in (3, 6, 9, 12):
        found = vote(given, k=k)
        assert (found.right, found.tied, found.silent) == pytest.approx(brute(given, k))


def test_an_answer_graded_both_ways_is_right_in_that_share() -> None:
    given = [*answers("RRX"), Grade(False, True, "timeout", "R")]
    for k in range(1, 5):
        assert vote(given, k=k).right == pytest.approx(brute(given, k)[0])


def test_majority_of_one_is_pass_at_1_where_all_answer() -> None:
    given = answers("RRXYZZZZ")
    assert vote(given, k=1).right == pytest.approx(0.25)
    assert vote(given, k=8).right == 0.0


def test_majority_of_hundreds_agrees_with_drawn_subsets() -> None:
    source = np.random.default_rng(1)
    letters = source.choice(list("RXYZW-"), p=[0.3, 0.28, 0.2, 0.1, 0.02, 0.1], size=512)
    given = answers("".join(letters))
    found = vote(given, k=64)
    drawn = [
        brute([given[i] for i in source.choice(512, 64, replace=False)], 64)[:2]
        for _ in range(2_000)
    ]
    right, tied = np.mean(drawn, axis=0)
    assert found.right == pytest.approx(right, abs=0.04)
    assert found.tied == pytest.approx(tied, abs=0.025)


def test_majority_over_problems_reports_ties_and_order_does_not_matter() -> None:
    grades = {"a": answers("RRX"), "b": answers("X--")}
    found = majority_at_k(grades, k=2)
    assert found.accuracy.mean == pytest.approx(1 / 3)
    assert found.ties == pytest.approx(1 / 3)
    # Of X - - two are drawn: only one subset of three is silent.
    assert found.silent == pytest.approx(1 / 6)
    turned = {problem: given[::-1] for problem, given in reversed(grades.items())}
    assert majority_at_k(turned, k=2) == found


def test_rates_take_the_problem_as_their_unit() -> None:
    cut = {"a": [True, True], "b": [False, False], "c": [True, False]}
    assert rate(cut) == mean_interval([1.0, 0.0, 0.5], samples=2)
    assert rate({"a": [True], "b": [False]}) == wilson(0.5, 2)


def test_mean_length_is_students_t_over_problems() -> None:
    # Problem means 10, 20, 30: 20 ± t(0.975, 2) · 10/√3 = 4.302653 · 5.773503.
    found = mean_length({"a": [5, 15], "b": [20, 20], "c": [30, 30]}, limit=100)
    assert found.mean == 20.0
    assert found.low == 0.0
    assert found.high == pytest.approx(20 + 4.302653 * 5.773503, abs=1e-4)


def test_lengths_that_are_all_the_same_do_not_claim_certainty() -> None:
    # Upper Wilson bound of 0 in 30: 0.113513.
    full = mean_length({str(i): [100, 100] for i in range(30)}, limit=100)
    assert (full.mean, full.high) == (100.0, pytest.approx(100.0))
    assert full.low == pytest.approx(100 * (1 - 0.113513), abs=1e-4)
    single = mean_length({"a": [40, 60]}, limit=100)
    assert single.low < 25 and single.high > 75


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(ValueError, match="pass@3 needs at least 3 completions of each problem"):
        pass_at_k({"a": answers("RX")}, k=3)
    with pytest.raises(ValueError, match="pass@0 needs at least 1"):
        pass_at_k({"a": answers("RX")}, k=0)
    with pytest.raises(ValueError, match="maj@3 of a needs at least 3 completions"):
        majority_at_k({"a": answers("RX")}, k=3)
    with pytest.raises(ValueError, match="cannot count the subsets of 1001 completions"):
        majority_at_k({"a": answers("R" * 1001)}, k=3)
    with pytest.raises(ValueError, match="there is no problem"):
        majority_at_k({}, k=1)
    with pytest.raises(ValueError, match="problem b has no completion"):
        pass_at_k({"a": answers("R"), "b": []}, k=1)
    with pytest.raises(ValueError, match="needs problems, but there is none"):
        rate({})
    for odd in (11, -1):
        with pytest.raises(ValueError, match=f"between 0 and the limit 10, not at {odd}"):
            mean_length({"a": [3, odd]}, limit=10)
