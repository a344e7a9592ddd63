"""From evaluations to a table: whose scores are paired with whose, and by what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tandem.evaluation.comparisons import Comparison, compare_all, compare_pairs
from tandem.evaluation.intervals import CONFIDENCE, Interval, mean_interval, t_quantile
from tandem.evaluation.record import Record
from tandem.studies.tables import Line, ResultTable


@dataclass(frozen=True, slots=True)
class Rated:
    """A row before it is compared. records: seed to the evaluation of that run's model."""

    label: str
    records: Mapping[int, Record]
    setting: str = ""


def compared(
    title: str, rows: Sequence[Rated], *, baseline: str, notes: Sequence[str] = ()
) -> ResultTable:
    """The table of `rows`, each compared with the one labelled `baseline`.

    Rows with several runs are paired seed by seed, on the seeds that all of them have; rows of one
    run each, problem by problem. Raises ValueError where they cannot be paired.
    """
    labels = [row.label for row in rows]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"two rows are called {label!r}: give each its own name")
    rows = _on_shared_seeds(rows)
    for row in rows:
        _same_problems(row, rows[0])
    scores = {row.label: _scored(row) for row in rows}
    found = {one.name: one for one in compare_all(scores, baseline=baseline)}
    lines = [
        Line(row.label, len(row.records), _interval(row), found.get(row.label), row.setting)
        for row in rows
    ]
    how = _how(rows, baseline, list(found.values()))
    return ResultTable(title, baseline, tuple(lines), (*how, *notes))


def tested(
    title: str,
    rows: Mapping[str, Rated],
    pairs: Sequence[tuple[str, str]],
    *,
    notes: Sequence[str] = (),
) -> ResultTable:
    """A line per pair of `rows` (the first against the second), corrected over all the pairs.

    rows: key to row; keys are what `pairs` names. Raises ValueError as `compared` does.
    """
    shared = dict(zip(rows, _on_shared_seeds(list(rows.values())), strict=True))
    first = next(iter(shared.values()))
    for row in shared.values():
        _same_problems(row, first)
    scores = {key: _scored(row) for key, row in shared.items()}
    found = compare_pairs(scores, pairs)
    lines = [
        Line(
            f"{rows[better].label} over {rows[worse].label}",
            len(shared[better].records),
            _interval(shared[better]),
            one,
        )
        for (better, worse), one in zip(pairs, found, strict=True)
    ]
    labels = {key: row.label for key, row in shared.items()}
    how = _how(
        list(shared.values()),
        "the second row named",
        [replace(one, name=labels[one.name]) for one in found],
    )
    return ResultTable(title, "", tuple(lines), (*how, *notes))


def zero_like(record: Record) -> Record:
    """The evaluation of a model that is not there: no problem solved."""
    return replace(record, step=None, metrics={}, scores=dict.fromkeys(record.scores, 0.0))


def _on_shared_seeds(rows: Sequence[Rated]) -> list[Rated]:
    if all(len(row.records) == 1 for row in rows):
        return list(rows)
    shared = set.intersection(*(set(row.records) for row in rows))
    if len(shared) < 2:
        counts = ", ".join(f"{row.label} {sorted(row.records)}" for row in rows)
        raise ValueError(
            f"rows with several runs are paired by seed, and these share {len(shared)} (they have "
            f"{counts}): give each the same seeds, 2 or more, or compare one run of each"
        )
    return [
        replace(row, records={seed: row.records[seed] for seed in sorted(shared)}) for row in rows
    ]


def _same_problems(row: Rated, first: Rated) -> None:
    """Raise ValueError unless both rows were judged on the same problems in the same way."""
    expected = next(iter(first.records.values()))
    for record in row.records.values():
        same = record.scores.keys() == expected.scores.keys()
        if not same or (record.samples, record.split) != (expected.samples, expected.split):
            raise ValueError(
                f"{row.label!r} was judged on {_size(record)} and {first.label!r} on "
                f"{_size(expected)}, which are not the same: judge both alike"
            )


def _size(record: Record) -> str:
    return f"{len(record.scores)} {record.split} problems × {record.samples} samples"


def _scored(row: Rated) -> dict[int, Mapping[str, float]]:
    records = row.records
    if len(records) == 1:
        # One run each: whatever its seed, it stands for itself.
        return {0: next(iter(records.values())).scores}
    return {seed: record.scores for seed, record in records.items()}


def _interval(row: Rated) -> Interval:
    """pass@1 with 95 %: Student's t over the runs, or over the problems of the only one."""
    records = list(row.records.values())
    if len(records) == 1:
        return mean_interval(list(records[0].scores.values()), samples=records[0].samples)
    means = np.array([np.mean(list(record.scores.values())) for record in records])
    mean, error = float(means.mean()), float(means.std(ddof=1)) / len(means) ** 0.5
    half = t_quantile(1 - CONFIDENCE, len(means)) * error
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def _how(rows: Sequence[Rated], baseline: str, found: Sequence[Comparison]) -> list[str]:
    """How the numbers were made, and what they cannot say."""
    size = _size(next(iter(rows[0].records.values())))
    runs = len(rows[0].records)
    if runs > 1:
        about = (
            f"{runs} runs per row, paired by seed: what another set of problems would change is "
            "not in the intervals."
        )
    else:
        about = (
            "One run per row, paired by problem: this is about these models, not about how they "
            "were made."
        )
    odd = [one.name for one in found if runs > 1 and one.unit == "problems"]
    if odd:
        about += f" All seeds of {', '.join(odd)} differ alike, so problems were the units there."
    count = f"{len(found)} comparison{'s' if len(found) > 1 else ''}"
    return [
        f"pass@1 in per cent on {size}. {about}",
        f"Differences are from {baseline}, in points. There is a verdict only where the interval "
        f"corrected by Holm over the {count} of this table leaves out zero. Detectable: the "
        "smallest true difference that a study of this spread and size shows with a chance of "
        "80 %.",
    ]
