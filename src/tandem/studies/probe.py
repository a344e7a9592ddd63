"""The step-0 probe (arXiv 2605.31159): how good are the prefixes that a behaviour leads to?

Responses of each behaviour are cut after t tokens, and what was written so far is continued by the
teacher alone and by the student alone. A response that had ended by then counts as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from tandem.behaviours.base import Behaviour
from tandem.evaluation.intervals import Interval, mean_interval, paired_difference
from tandem.studies.diagnostics_pair import Pair, Question, Response, Watch, respond
from tandem.studies.probe_cuts import CONTINUERS, Who, continued, cut_of
from tandem.tasks.base import Task
from tandem.types import Clock, SignalSpec

STUDENT = "student"
"""The behaviour that the others are compared with, by its label."""


@dataclass(frozen=True, slots=True)
class Probed:
    """A behaviour at one clock, and what tables call it."""

    label: str
    behaviour: Behaviour
    clock: Clock


@dataclass(frozen=True, slots=True)
class Row:
    """success: share of right responses after the cut at `length` tokens, over problems. finished:
    share of responses that had ended by then. difference: success minus that of the student's
    prefixes, paired by problem; None of the student itself."""

    behaviour: str
    length: int
    continued_by: Who
    success: Interval
    finished: float
    difference: Interval | None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """own: accuracy of the whole responses of each behaviour. scores: of every row, problem id to
    the share of its samples that are right."""

    rows: list[Row]
    own: dict[str, Interval]
    scores: dict[tuple[str, int, Who], dict[str, float]]
    lengths: tuple[int, ...]
    problems: int
    samples: int


def probe(
    pair: Pair,
    task: Task,
    questions: Sequence[Question],
    behaviours: Sequence[Probed],
    *,
    lengths: Sequence[int],
    samples: int,
    watch: Watch,
) -> ProbeResult:
    """Cut the responses of every behaviour at every length and continue them.

    behaviours: the student's own under the label `student` is among them. lengths: in tokens, from
    0 (nothing is written yet) to the longest response (nothing is cut).
    Raises ValueError for lengths outside of that.
    """
    _check(lengths, limit=pair.limit)
    responses = _responses(pair, task, questions, behaviours, samples=samples, watch=watch)
    cuts = [
        cut
        for given in responses.values()
        for response, length, who in product(given, lengths, CONTINUERS)
        if (cut := cut_of(response, length, who)) is not None
    ]
    right = continued(pair, task, cuts, on_progress=watch("continuations"))
    scores: dict[tuple[str, int, Who], dict[str, float]] = {}
    for label, length, who in product(responses, lengths, CONTINUERS):
        marks = [_mark(response, length, who, right) for response in responses[label]]
        scores[label, length, who] = _by_problem(responses[label], marks)
    ended = {
        (label, length): float(np.mean([len(one.rollout) <= length for one in given]))
        for label, given in responses.items()
        for length in lengths
    }
    return ProbeResult(
        rows=list(_rows(scores, ended, samples=samples)),
        own={
            label: _accuracy(_by_problem(given, [one.correct for one in given]), samples=samples)
            for label, given in responses.items()
        },
        scores=scores,
        lengths=tuple(lengths),
        problems=len(questions),
        samples=samples,
    )


def as_json(result: ProbeResult, **about: str | int) -> dict[str, Any]:
    """probe.json; about: model, teacher, task, seed and what else there is to say of the run."""
    return {
        "schema": 1,
        **about,
        "lengths": list(result.lengths),
        "behaviours": list(result.own),
        "problems": result.problems,
        "samples": result.samples,
        "rows": [
            {**_place(row), **_bounds(row.success), "finished": row.finished} for row in result.rows
        ],
        "differences": [
            {**_place(row), **_bounds(row.difference)}
            for row in result.rows
            if row.difference is not None
        ],
        "own": [{"behaviour": label, **_bounds(own)} for label, own in result.own.items()],
    }


def _place(row: Row) -> dict[str, str | int]:
    return {"behaviour": row.behaviour, "length": row.length, "continued_by": row.continued_by}


def _bounds(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _check(lengths: Sequence[int], *, limit: int) -> None:
    outside = [length for length in lengths if not 0 <= length <= limit]
    if not lengths or outside or len(set(lengths)) < len(lengths):
        raise ValueError(
            f"lengths are {', '.join(map(str, lengths)) or 'none'}, but a response is cut at "
            f"distinct numbers of tokens from 0 to rollout.max_new_tokens ({limit}): name such"
        )


def _responses(
    pair: Pair,
    task: Task,
    questions: Sequence[Question],
    behaviours: Sequence[Probed],
    *,
    samples: int,
    watch: Watch,
) -> dict[str, list[Response]]:
    assert any(one.label == STUDENT for one in behaviours), "the others are compared with it"
    tell, each = watch("responses"), len(questions) * samples
    return {
        one.label: respond(
            pair,
            task,
            questions,
            behaviour=one.behaviour,
            clock=one.clock,
            samples=samples,
            record=SignalSpec(),
            on_progress=lambda done, _, i=i: tell(i * each + done, len(behaviours) * each),
        )
        for i, one in enumerate(behaviours)
    }


def _mark(response: Response, length: int, who: Who, right: Mapping[int, bool]) -> bool:
    cut = cut_of(response, length, who)
    return response.correct if cut is None else right[cut.id]


def _by_problem(responses: Sequence[Response], marks: Sequence[bool]) -> dict[str, float]:
    found: dict[str, list[bool]] = {}
    for response, mark in zip(responses, marks, strict=True):
        found.setdefault(response.question.prompt.id, []).append(mark)
    return {problem: float(np.mean(own)) for problem, own in found.items()}


def _accuracy(scores: Mapping[str, float], *, samples: int) -> Interval:
    return mean_interval(list(scores.values()), samples=samples)


def _rows(
    scores: Mapping[tuple[str, int, Who], Mapping[str, float]],
    ended: Mapping[tuple[str, int], float],
    *,
    samples: int,
) -> Iterator[Row]:
    for (label, length, who), own in scores.items():
        base = None if label == STUDENT else scores[STUDENT, length, who]
        yield Row(
            behaviour=label,
            length=length,
            continued_by=who,
            success=_accuracy(own, samples=samples),
            finished=ended[label, length],
            difference=None if base is None else paired_difference(own, base),
        )
