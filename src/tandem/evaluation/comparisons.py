"""Several runs or methods against one baseline, on identical problems and identical seeds.

Two questions, told apart by what counts as one independent observation:

* seeds, where each side ran with several: would this method, trained anew with another seed, again
  differ from the baseline on these problems? Student's t over the paired differences of the seeds.
* problems, where there is one run a side: do these two trained models differ on problems like
  these? `paired_difference`. It says nothing about the methods: another seed may turn it round.

The p-values of one table are corrected by Holm's procedure (Scandinavian Journal of Statistics 6,
1979), so that a table in which no method differs shows a verdict in at most 5 % of all cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from scipy.optimize import brentq
from scipy.special import nctdtrinc, stdtr

from tandem.evaluation.intervals import CONFIDENCE, Interval, difference_interval, t_quantile

Verdict = Literal["better", "worse", "no difference shown"]
Unit = Literal["seeds", "problems"]
Run = Mapping[str, float]
Seeds = Mapping[int, Run]
POWER = 0.8
# Below it a p-value over problems is not resolved further.
LEAST_P = 1e-12
# Differences are means of many fractions: closer than this they are one and the same number.
SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method less the baseline, in shares of right answers.

    difference: with its 95 % interval, on its own. corrected: the interval at the level of Holm's
    step that decided, so that it leaves out zero exactly where there is a verdict. p: two-sided;
    holm_p: corrected over the table. detectable: the smallest true difference that a study of this
    spread and size would have shown, in its first Holm step, with a probability of 80 %; over 1
    means none at all. unit, units: what was counted as independent, and how many.
    """

    name: str
    difference: Interval
    corrected: Interval
    p: float
    holm_p: float
    verdict: Verdict
    detectable: float
    unit: Unit
    units: int


def compare_all(
    scores: Mapping[str, Run] | Mapping[str, Seeds],
    *,
    baseline: str,
    confidence: float = CONFIDENCE,
) -> list[Comparison]:
    """Every other entry of `scores` against `baseline`, in their order; one table, one correction.

    scores: name -> {problem: score} for single runs, or name -> {seed: {problem: score}}. With two
    seeds or more the seeds are the units; with one, or where all seeds show one and the same
    difference and t would claim certainty, the problems are (a problem's score is then its mean
    over the seeds).

    Raises ValueError where the baseline is missing or alone, and where a side has other seeds or
    other problems than the baseline.
    """
    if baseline not in scores:
        raise ValueError(
            f"the baseline {baseline!r} is not among {', '.join(scores)}; name one of them"
        )
    if len(scores) < 2:
        raise ValueError(
            f"there is nothing to compare {baseline!r} with; give a second run or method"
        )
    pairs = [(name, baseline) for name in scores if name != baseline]
    return compare_pairs(scores, pairs, confidence=confidence)


def compare_pairs(
    scores: Mapping[str, Run] | Mapping[str, Seeds],
    pairs: Sequence[tuple[str, str]],
    *,
    confidence: float = CONFIDENCE,
) -> list[Comparison]:
    """The first of each pair against the second, as `compare_all` does; one table, one correction.

    Raises ValueError as it does.
    """
    sides = {name: _by_seed(runs) for name, runs in scores.items()}
    studies = [_paired(name, sides[name], than, sides[than]) for name, than in pairs]
    p_values = [study.p() for study in studies]
    error = 1 - confidence
    return [
        _judged(name, study, p, holm_p, levels=(error, level, error / len(studies)))
        for (name, _), study, p, holm_p, level in zip(
            pairs, studies, p_values, holm(p_values), _levels(p_values, error), strict=True
        )
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values in the given order: reject where they are at most the error rate.

    The k-th smallest of m is multiplied by m − k + 1, and none is less than the one before it.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for k, i in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - k) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def detectable_difference(standard_error: float, *, units: int, error: float) -> float:
    """The true difference whose two-sided t-test at `error` rejects with a probability of 80 %.

    By the noncentral t distribution with units − 1 degrees of freedom; standard_error: of the mean
    difference.
    """
    quantile = t_quantile(error, units)
    return standard_error * float(nctdtrinc(units - 1, 1 - POWER, quantile))


@dataclass(frozen=True, slots=True)
class _OverSeeds:
    differences: np.ndarray

    unit: Unit = "seeds"

    @property
    def units(self) -> int:
        return len(self.differences)

    @property
    def standard_error(self) -> float:
        return float(self.differences.std(ddof=1)) / math.sqrt(self.units)

    def interval(self, error: float) -> Interval:
        mean = float(self.differences.mean())
        half = t_quantile(error, self.units) * self.standard_error
        return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half))

    def p(self) -> float:
        t = abs(float(self.differences.mean())) / self.standard_error
        return 2 * float(stdtr(self.units - 1, -t))

    def detectable(self, error: float) -> float:
        return detectable_difference(self.standard_error, units=self.units, error=error)


@dataclass(frozen=True, slots=True)
class _OverProblems:
    after: np.ndarray
    before: np.ndarray

    unit: Unit = "problems"

    @property
    def units(self) -> int:
        return len(self.after)

    def interval(self, error: float) -> Interval:
        return difference_interval(self.after, self.before, error=error)

    def p(self) -> float:
        """The error rate at which the interval begins to hold zero."""
        mean = self.interval(0.5).mean
        if abs(mean) < SAME:
            return 1.0

        def distance(exponent: float) -> float:
            found = self.interval(math.exp(exponent))
            return found.low if mean > 0 else -found.high

        if distance(math.log(LEAST_P)) > 0:
            return LEAST_P
        return math.exp(cast(float, brentq(distance, math.log(LEAST_P), 0.0, xtol=1e-10)))

    def detectable(self, error: float) -> float:
        # The interval is hardly skewed where it is narrow: half of its width serves for both sides.
        found = self.interval(error)
        half = (found.high - found.low) / 2
        standard_error = half / t_quantile(error, self.units)
        return detectable_difference(standard_error, units=self.units, error=error)


def _by_seed(runs: Run | Seeds) -> Seeds:
    if any(isinstance(value, Mapping) for value in runs.values()):
        return cast(Seeds, runs)
    return {0: cast(Run, runs)}


def _paired(name: str, side: Seeds, baseline: str, base: Seeds) -> _OverSeeds | _OverProblems:
    if side.keys() != base.keys():
        raise ValueError(
            f"{name} ran with seeds {_listed(side)} and the baseline {baseline} with "
            f"{_listed(base)}: they are paired by seed, so run both with the same ones"
        )
    for seed, run in side.items():
        if run.keys() != base[seed].keys() or not run:
            odd = len(run.keys() ^ base[seed].keys())
            raise ValueError(
                f"{name} and the baseline {baseline} share {len(run.keys() & base[seed].keys())} "
                f"problems at seed {seed} and differ in {odd}: evaluate both on one set"
            )
    differences = np.array([_mean(run) - _mean(base[seed]) for seed, run in side.items()])
    if float(np.ptp(differences)) > SAME:
        return _OverSeeds(differences)
    after, before = _over_seeds(side), _over_seeds(base)
    if len(after) < 2:
        raise ValueError(
            f"{name} less {baseline} has neither two seeds that differ nor two problems; give more"
        )
    return _OverProblems(
        np.array(list(after.values())), np.array([before[problem] for problem in after])
    )


def _judged(
    name: str,
    study: _OverSeeds | _OverProblems,
    p: float,
    holm_p: float,
    *,
    levels: tuple[float, float, float],
) -> Comparison:
    """levels: the table's error rate, that of the deciding Holm step, and that of the first."""
    error, decided, first = levels
    found = study.interval(error)
    verdict: Verdict = "no difference shown"
    if holm_p <= error:
        verdict = "better" if found.mean > 0 else "worse"
    return Comparison(
        name=name,
        difference=found,
        corrected=study.interval(decided),
        p=p,
        holm_p=holm_p,
        verdict=verdict,
        detectable=study.detectable(first),
        unit=study.unit,
        units=study.units,
    )


def _levels(p_values: Sequence[float], error: float) -> list[float]:
    """The error rate at which each was decided: its own step's, or the one Holm stopped at."""
    levels, stopped = [0.0] * len(p_values), 0.0
    for k, i in enumerate(np.argsort(p_values, kind="stable")):
        own = error / (len(p_values) - k)
        if not stopped and p_values[i] > own:
            stopped = own
        levels[i] = stopped or own
    return levels


def _mean(run: Run) -> float:
    return float(np.mean(list(run.values())))


def _over_seeds(side: Seeds) -> dict[str, float]:
    """Each problem's mean over the seeds that hold it."""
    found: dict[str, list[float]] = {}
    for run in side.values():
        for problem, score in run.items():
            found.setdefault(problem, []).append(score)
    return {problem: float(np.mean(scores)) for problem, scores in found.items()}


def _listed(side: Seeds) -> str:
    return ", ".join(map(str, side)) or "none"
