"""How many given tokens open a response."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from oracles import behaviours as oracle
from tandem.behaviours import Behaviour, CompletionSource, OffPolicyMix, TeacherPrefix
from tandem.types import Author, Clock

MANY = torch.arange(60_000)


def given(
    behaviour: Behaviour,
    sequence: torch.Tensor = MANY,
    *,
    step: int = 0,
    total: int = 10,
    limit: int = 8,
    seed: int = 3,
) -> list[int]:
    return behaviour.given(Clock(step, total), sequence=sequence, limit=limit, seed=seed).tolist()


def test_by_hand_the_longest_prefix_falls_as_half_a_cosine() -> None:
    # ½ · 100 · (1 + cos(πt/4)) = 100, 85.36, 50, 14.64, 0.
    prefix = TeacherPrefix()
    longest = [prefix.longest(Clock(t, 4), limit=100) for t in range(6)]
    assert longest == [100, 85, 50, 14, 0, 0]
    own = TeacherPrefix(horizon=2)
    assert [own.longest(Clock(t, 4), limit=100) for t in range(4)] == [100, 50, 0, 0]


@pytest.mark.parametrize("limit", [1, 7, 512, 8096])
def test_the_longest_prefix_is_that_of_the_oracle_and_never_rises(limit: int) -> None:
    prefix = TeacherPrefix()
    longest = [prefix.longest(Clock(t, 37), limit=limit) for t in range(40)]
    assert longest == [oracle.longest_prefix(limit, t, 37) for t in range(40)]
    assert longest == sorted(longest, reverse=True) and longest[0] == limit


def test_the_longest_prefix_itself_is_given_where_asked_for() -> None:
    prefix = TeacherPrefix(prefix="max")
    assert set(given(prefix)) == {8}
    assert set(given(prefix, step=5)) == {4}
    assert set(given(prefix, step=10)) == {0}


def test_a_uniform_prefix_has_each_length_up_to_the_longest_equally_often() -> None:
    counts = Counter(given(TeacherPrefix(), step=5, limit=12))
    assert sorted(counts) == list(range(7)), "0 and L_max = 6 included"
    expected = len(MANY) / 7
    chi_square = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi_square < 22.5, "0.1 % of chi-square with 6 degrees of freedom"


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_a_mixed_batch_has_its_share_of_the_students_own(fraction: float) -> None:
    counts = Counter(given(OffPolicyMix(on_policy_fraction=fraction)))
    assert set(counts) == {0, 8}, "nothing, or all of it"
    n = len(MANY)
    z = (counts[0] - n * fraction) / (n * fraction * (1 - fraction)) ** 0.5
    assert abs(z) < 4


def test_the_ends_of_a_mix_are_all_given_and_all_the_students() -> None:
    assert set(given(OffPolicyMix(on_policy_fraction=0.0))) == {8}
    assert set(given(OffPolicyMix(on_policy_fraction=1.0))) == {0}
    assert OffPolicyMix(on_policy_fraction=0.0).gives()
    assert not OffPolicyMix(on_policy_fraction=1.0).gives()
    assert OffPolicyMix(on_policy_fraction=1.0).completion_source() is None


@pytest.mark.parametrize("behaviour", [TeacherPrefix(), OffPolicyMix()], ids=lambda b: b.kind)
def test_it_is_a_function_of_seed_sequence_and_clock_alone(behaviour: Behaviour) -> None:
    few = MANY[:200]
    whole = given(behaviour, few, step=2, limit=50)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    shuffled = given(behaviour, few[order], step=2, limit=50)
    assert shuffled == [whole[i] for i in order.tolist()], "no company, no order"
    assert [given(behaviour, few[i : i + 1], step=2, limit=50)[0] for i in range(200)] == whole
    assert given(behaviour, few, step=2, limit=50, seed=4) != whole
    assert given(behaviour, few[:0], step=2, limit=50) == []


def test_a_prefix_counts_from_the_clock_and_keeps_its_draw() -> None:
    # The same uniform at every step: a response asked again later gets a shorter prefix, or none.
    lengths = [given(TeacherPrefix(), MANY[:50], step=t, limit=40) for t in range(11)]
    for earlier, later in itertools.pairwise(lengths):
        assert all(b <= a for a, b in zip(earlier, later, strict=True))
    assert set(lengths[10]) == {0}


@pytest.mark.parametrize("behaviour", [TeacherPrefix(), OffPolicyMix()], ids=lambda b: b.kind)
def test_every_drawn_token_is_the_students_own(behaviour: Behaviour) -> None:
    assert behaviour.is_always_student() and behaviour.author(Clock(0, 1)) is Author.STUDENT
    assert not behaviour.needs_teacher(Clock(0, 1))


def test_where_completions_come_from_is_what_the_recipe_says() -> None:
    kept = TeacherPrefix.model_validate({"completions": "cache", "cache": "kept/here"})
    assert kept.completion_source() == CompletionSource("cache", "kept/here")
    assert OffPolicyMix(completions="dataset").completion_source() == CompletionSource("dataset")
