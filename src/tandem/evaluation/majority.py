"""maj@k: how often the most frequent of k answers is right.

Exact over all subsets of k of a problem's n completions, without drawing any. Answers that are
given equally often matter only through how often, so the outcomes are counted by generating
functions: a factor for each rival answer in x (its votes) and y (that it ties), a factor
(1 + x)^s for the s completions without an answer; the coefficient of x^k counts subsets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import comb

from tandem.evaluation.intervals import CONFIDENCE, Interval, mean_interval
from tandem.tasks.base import Grade

# Numbers of subsets are kept as floats: 1,000 over 500 is 2.7e299.
MOST = 1_000


@dataclass(frozen=True, slots=True)
class Majority:
    """maj@k over problems. ties: share of the subsets in which several answers came first;
    silent: share in which none of the k gave an answer. Both are means over problems."""

    accuracy: Interval
    ties: float
    silent: float


@dataclass(frozen=True, slots=True)
class Vote:
    """One problem's expectations over its subsets."""

    right: float
    tied: float
    silent: float


def majority_at_k(
    grades: Mapping[str, Sequence[Grade]], *, k: int, confidence: float = CONFIDENCE
) -> Majority:
    """Expected correctness of the answer most often given by k of a problem's completions.

    Votes are counted by `Grade.answer` as it stands. Completions without one do not vote; where
    nobody votes the result is wrong. Of answers that tie each is taken with equal chance. An answer
    that was graded both ways, by a timeout say, is right in that share. (Self-consistency,
    arXiv 2203.11171; maj@k as in Minerva, arXiv 2206.14858.)

    Raises ValueError where a problem has fewer than k completions, or there is none.
    """
    if not grades:
        raise ValueError("maj@k needs graded completions, but there is no problem; evaluate some")
    votes = [vote(given, k=k, problem=problem) for problem, given in grades.items()]
    samples = independent_draws([len(given) for given in grades.values()], k=k)
    return Majority(
        accuracy=mean_interval(
            [one.right for one in votes], samples=samples, confidence=confidence
        ),
        ties=float(np.mean([one.tied for one in votes])),
        silent=float(np.mean([one.silent for one in votes])),
    )


def vote(given: Sequence[Grade], *, k: int, problem: str = "a problem") -> Vote:
    """What comes of all subsets of k of one problem's completions, of which 1,000 can be counted.

    Raises ValueError for fewer completions than k, or for more than that.
    """
    if len(given) > MOST:
        raise ValueError(
            f"maj@{k} of {problem} cannot count the subsets of {len(given)} completions; "
            f"give at most {MOST}"
        )
    if not 1 <= k <= len(given):
        raise ValueError(
            f"maj@{k} of {problem} needs at least {max(k, 1)} completions, but there are "
            f"{len(given)}; lower k or add samples"
        )
    answers = Counter(one.answer for one in given if one.answer)
    right = Counter(one.answer for one in given if one.answer and one.correct)
    silent = len(given) - answers.total()
    subsets = comb(len(given), k)
    sizes = Counter(answers.values())
    won = {size: _first(size, sizes, silent=silent, k=k) for size in sizes}
    wins = sum(won[answers[answer]][0] * n / answers[answer] for answer, n in right.items())
    ties = sum(won[size][1] * many for size, many in sizes.items())
    return Vote(
        right=min(1.0, float(wins / subsets)),
        tied=min(1.0, float(ties / subsets)),
        silent=float(comb(silent, k) / subsets),
    )


def independent_draws(counts: Sequence[int], *, k: int) -> int:
    """Samples per problem, as `mean_interval` counts them, of an estimate from subsets of k.

    Where every problem has k completions there is one subset of each, as if one sample were taken.
    """
    return 1 if all(count == k for count in counts) else min(counts)


def _first(size: int, sizes: Counter[int], *, silent: int, k: int) -> tuple[float, float]:
    """How many subsets an answer given `size` times comes first in: all, and tied ones.

    Each subset is divided by the number of answers that share first place.
    """
    rivals = sizes.copy()
    rivals[size] -= 1
    others = silent + sum(rival * many for rival, many in rivals.items())
    won = tied = 0.0
    for votes in range(max(1, k - others), min(size, k) + 1):
        rest = k - votes
        # One vote against two or more neither wins nor ties: as good as silent.
        harmless = silent + rivals[1] * (votes > 1)
        ways = np.zeros((rest + 1, rest // votes + 1))
        ways[:, 0] = comb(harmless, np.arange(rest + 1))
        for rival, many in rivals.items():
            for _ in range(many if rival > 1 or votes == 1 else 0):
                ways = _joined(ways, rival, votes)
        shares = comb(size, votes) * ways[rest] / np.arange(1, ways.shape[1] + 1)
        won += float(shares.sum())
        tied += float(shares[1:].sum())
    return won, tied


def _joined(ways: np.ndarray, rival: int, votes: int) -> np.ndarray:
    """Ways [votes cast, answers that tie] after one more rival, which gets at most `votes`."""
    joined = np.zeros_like(ways)
    cast = len(ways)
    for given in range(min(rival, votes, cast - 1) + 1):
        added = comb(rival, given) * ways[: cast - given]
        if given == votes:
            joined[given:, 1:] += added[:, :-1]
        else:
            joined[given:] += added
    return joined
