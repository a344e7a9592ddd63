"""Token means, curves over positions and histograms, with the problem as the unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tandem.evaluation.intervals import CONFIDENCE, Interval, clustered_interval, t_quantile

MOST_BINS = 64
BARS = 20
QUANTILES = {"10 %": 0.1, "median": 0.5, "90 %": 0.9}


@dataclass(frozen=True, slots=True)
class Scale:
    """What a number of a token is measured in, and the bounds that it cannot pass.

    rare: a chance from 0 to 1 that is near 0 at most tokens and near 1 at a few: Student's t covers
    too little there, and `clustered_interval` is taken instead.
    """

    unit: str
    low: float = -math.inf
    high: float = math.inf
    rare: bool = False


NATS = Scale("nats per token", low=0.0)
LOGPROB = Scale("nats per token", high=0.0)
RATIO = Scale("nats per token")
CHANCE = Scale("share of tokens", low=0.0, high=1.0, rare=True)
EXPONENT = Scale("exponent", low=0.0, high=1.0)


@dataclass(frozen=True, slots=True)
class Tokens:
    """All tokens of a set of responses, flat.

    problem: [N] number of the problem, from 0. position: [N] place in the response, from 0.
    columns: name -> [N] numbers.
    """

    problem: np.ndarray
    position: np.ndarray
    columns: dict[str, np.ndarray]

    def mean(self, name: str, scale: Scale) -> Interval:
        """The token mean of a column."""
        found = token_means(self.columns[name], self.problem, np.zeros_like(self.problem))
        return found[0].interval(scale)


@dataclass(frozen=True, slots=True)
class Point:
    """A token mean and the variance of its estimate over `problems` of them."""

    mean: float
    variance: float
    problems: int

    def interval(self, scale: Scale) -> Interval:
        """95 % over problems; at least two of them."""
        assert self.problems > 1, "one problem says nothing of others"
        if scale.rare:
            mean = min(max(self.mean, 0.0), 1.0)
            return clustered_interval(
                mean, variance=self.variance, units=self.problems, error=1 - CONFIDENCE
            )
        half = t_quantile(1 - CONFIDENCE, self.problems) * math.sqrt(self.variance)
        # Rounding may take a mean a little beyond what the bounds allow.
        low, high = max(self.mean - half, scale.low), min(self.mean + half, scale.high)
        return Interval(self.mean, min(low, self.mean), max(high, self.mean))


def token_means(values: np.ndarray, problem: np.ndarray, group: np.ndarray) -> list[Point]:
    """The token mean of each group 0, 1, … of tokens: Σ values / number of tokens.

    values, problem, group: [N]; every group up to the last has tokens. Problems differ in how many
    tokens they have, so this is a ratio of two sums over problems: with R the mean, s_i and n_i the
    sum and the number of problem i's tokens, the variance is n/(n−1) Σ (s_i − R n_i)² / (Σ n_i)²
    (Cochran, Sampling Techniques, 3rd ed. 1977, section 6.3; without the finite correction).
    """
    groups, problems = int(group.max()) + 1, int(problem.max()) + 1
    cell, shape = group * problems + problem, (groups, problems)
    counts = np.bincount(cell, minlength=groups * problems).reshape(shape).astype(np.float64)
    sums = np.bincount(cell, weights=values, minlength=groups * problems).reshape(shape)
    found: list[Point] = []
    for s, n in zip(sums, counts, strict=True):
        mean, present = float(s.sum() / n.sum()), int((n > 0).sum())
        apart = s - mean * n
        scale = present / max(present - 1, 1)
        variance = scale * float(apart @ apart) / float(n.sum()) ** 2
        found.append(Point(mean, variance, present))
    return found


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line of points (x, mean, low, high), bounds None where there is no interval."""

    unit: str
    x: str
    points: list[tuple[float, float, float | None, float | None]] = field(default_factory=list)

    def add(self, x: float, found: Interval | float) -> None:
        if isinstance(found, Interval):
            self.points.append((x, found.mean, found.low, found.high))
        else:
            self.points.append((x, found, None, None))

    def as_json(self) -> dict[str, Any]:
        names = ("x", "mean", "low", "high")
        points = [dict(zip(names, point, strict=True)) for point in self.points]
        return {"unit": self.unit, "x": self.x, "points": points}


def by_position(tokens: Tokens, name: str, scale: Scale) -> Curve:
    """Token means over places in the response; neighbours together where there are many."""
    width, place = _bins(tokens.position)
    curve = Curve(scale.unit, "token")
    for i, point in enumerate(token_means(tokens.columns[name], tokens.problem, place)):
        found = point.interval(scale) if point.problems > 1 else point.mean
        curve.add(i * width + (width - 1) / 2, found)
    return curve


def quantiles_by_position(tokens: Tokens, name: str, scale: Scale) -> dict[str, Curve]:
    """What shares of the tokens at a place lie below, by what the share is called."""
    width, place = _bins(tokens.position)
    order = np.argsort(place, kind="stable")
    parts = np.split(tokens.columns[name][order], np.cumsum(np.bincount(place))[:-1])
    curves = {label: Curve(scale.unit, "token") for label in QUANTILES}
    for i, part in enumerate(parts):
        for label, share in QUANTILES.items():
            curves[label].add(i * width + (width - 1) / 2, float(np.quantile(part, share)))
    return curves


def histogram(values: np.ndarray, scale: Scale) -> dict[str, Any]:
    """Counts between BARS + 1 even edges, from 0 or the smallest value to the largest."""
    low, high = min(0.0, float(values.min())), float(values.max())
    # A flat distribution has a bar of some width too.
    counts, edges = np.histogram(values, bins=BARS, range=(low, high if high > low else low + 1.0))
    return {"unit": scale.unit, "edges": edges.tolist(), "counts": counts.tolist()}


def curve_of_rows(rows: Sequence[dict[str, Any]], key: str, *, unit: str) -> Curve:
    """A metric of metrics.jsonl over the optimiser step; nulls are left out."""
    curve = Curve(unit, "optimiser step")
    for row in rows:
        if row.get(key) is not None:
            curve.add(float(row["step"]), float(row[key]))
    return curve


def _bins(position: np.ndarray) -> tuple[int, np.ndarray]:
    """How many places stand together, and the number [N] of each token's bin."""
    width = math.ceil((int(position.max()) + 1) / MOST_BINS)
    return width, position // width
