"""What a model scored on a suite, as result.json and the printed table have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tandem.evaluation.estimates import looping_tail, pass_at_k, repeats
from tandem.evaluation.evaluate import Completion, EvaluationResult, summary
from tandem.evaluation.intervals import Interval
from tandem.evaluation.majority import MOST, Majority, majority_at_k
from tandem.tasks.base import Grade

VOTERS = (4, 16, 64)


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """A suite's scores; rates are shares of all completions.

    at_1: pass@1, scores by problem, length, truncation, no-answer rate. passed: pass@k for the
    powers of two up to the samples, and for all of them. majority: maj@k for the k of `voters`;
    empty where no answer can be voted on. repeated: mean share of repeated 4-grams. looping: share
    of completions that end in a loop. left_out: problems that were not asked, by the user's wish.
    """

    suite: str
    at_1: EvaluationResult
    passed: dict[int, Interval]
    majority: dict[int, Majority]
    repeated: float
    looping: float
    left_out: int

    def as_json(self) -> dict[str, Any]:
        """Plain data, whole: scores by problem too, so that models can be compared in pairs."""
        at_1 = self.at_1
        return {
            "suite": self.suite,
            "problems": len(at_1.scores),
            "samples": at_1.samples,
            "dropped": at_1.dropped,
            "left_out": self.left_out,
            "pass@1": asdict(at_1.pass_at_1),
            "pass@k": {str(k): asdict(found) for k, found in self.passed.items()},
            "maj@k": {str(k): asdict(found) for k, found in self.majority.items()},
            "length": at_1.mean_length,
            "truncated": at_1.truncated,
            "no_answer": at_1.no_answer,
            "repeated": self.repeated,
            "looping": self.looping,
            "scores": at_1.scores,
        }


def summarise(
    completions: Sequence[Completion],
    *,
    suite: str,
    samples: int,
    dropped: int,
    left_out: int,
    on_count: Callable[[int, int], None],
) -> SuiteResult:
    """The scores of `samples` completions of each problem, those of one problem together.

    on_count: told (done, total) of the votes, which take a second per problem of 512 samples.
    """
    grades: dict[str, list[Grade]] = {}
    for completion in completions:
        grades.setdefault(completion.prompt.id, []).append(completion.grade)
    assert all(len(given) == samples for given in grades.values())
    majority: dict[int, Majority] = {}
    if samples <= MOST and any(c.grade.answer for c in completions):
        ks = voters(samples)
        for k in ks:
            on_count(len(majority), len(ks))
            majority[k] = majority_at_k(grades, k=k)
        on_count(len(ks), len(ks))
    return SuiteResult(
        suite=suite,
        at_1=summary(list(completions), samples=samples, dropped=dropped),
        passed={k: pass_at_k(grades, k=k) for k in sizes(samples)},
        majority=majority,
        repeated=float(np.mean([repeats(c.text) for c in completions])),
        looping=float(np.mean([looping_tail(c.text) > 0 for c in completions])),
        left_out=left_out,
    )


def sizes(samples: int) -> list[int]:
    """The k of pass@k: 1, 2, 4, … below the number of samples, and that number."""
    return [*(2**e for e in range(samples.bit_length()) if 2**e < samples), samples]


def voters(samples: int) -> list[int]:
    """The k of maj@k: 4, 16, 64 below the number of samples, and that number up to 64.

    Subsets of hundreds of answers take long to count, and add little to 64.
    """
    return [*(k for k in VOTERS if k < samples), *([samples] if samples <= VOTERS[-1] else [])]
