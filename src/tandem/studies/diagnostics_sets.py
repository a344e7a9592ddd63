"""A set of responses that a diagnosis looks at: drawn by one law, each token seen by both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

from tandem.evaluation.estimates import auroc, mean_length, rate
from tandem.evaluation.intervals import Interval, mean_interval
from tandem.studies.diagnostics_numbers import Tokens
from tandem.studies.diagnostics_pair import Pair, Progress, Question, Response, respond
from tandem.studies.diagnostics_watch import RECORD, Watched
from tandem.tasks.base import Task
from tandem.types import Clock, Rollout

T = TypeVar("T")

# Columns of every set, besides what its behaviour says of each token. All in nats but the last.
TEACHER_ENTROPY, STUDENT_ENTROPY = "teacher_entropy", "student_entropy"
TEACHER_LOGPROB, LOG_RATIO = "teacher_logprob", "log_ratio"


@dataclass(frozen=True, slots=True)
class Answers:
    """Watched responses, those of one question together.

    tokens: all of theirs, flat, in the same order. limit: the longest response, in tokens.
    """

    responses: list[Response]
    tokens: Tokens
    samples: int
    limit: int

    def accuracy(self) -> Interval:
        """Mean over problems of the share of right responses."""
        marks = self._by_problem([one.correct for one in self.responses])
        return mean_interval([float(np.mean(own)) for own in marks], samples=self.samples)

    def length(self) -> Interval:
        """Mean length in tokens, the end token included."""
        lengths = self._by_problem([len(one.rollout) for one in self.responses])
        return mean_length({str(i): own for i, own in enumerate(lengths)}, limit=self.limit)

    def truncated(self) -> Interval:
        """Share of responses that reached the limit."""
        cut = self._by_problem([one.rollout.ended == "length" for one in self.responses])
        return rate({str(i): own for i, own in enumerate(cut)})

    def told_apart(self) -> Interval | None:
        """AUROC of mean(log q − log p), a response's tokens' mean, for right against wrong
        responses; None where all are right, or all wrong: then there is nothing to tell apart."""
        right = [one.correct for one in self.responses]
        if all(right) or not any(right):
            return None
        scores = [(log_ratio(one.rollout), one.correct) for one in self.responses]
        by_problem = self._by_problem(scores)
        return auroc({str(i): own for i, own in enumerate(by_problem)})

    def _by_problem(self, values: Sequence[T]) -> list[list[T]]:
        return [list(values[i : i + self.samples]) for i in range(0, len(values), self.samples)]


def log_ratio(rollout: Rollout) -> float:
    """The mean over a response's tokens of log q − log p, in nats."""
    return float(_teacher(rollout).double().sub(rollout.student_logp.double()).mean())


def answers(
    pair: Pair,
    task: Task,
    questions: Sequence[Question],
    *,
    watched: Watched,
    clock: Clock,
    samples: int,
    on_progress: Progress,
) -> Answers:
    """Ask every question `samples` times and grade."""
    responses = respond(
        pair,
        task,
        questions,
        behaviour=watched,
        clock=clock,
        samples=samples,
        record=RECORD,
        on_progress=on_progress,
    )
    return Answers(responses, _tokens(responses, samples), samples, pair.limit)


def _tokens(responses: Sequence[Response], samples: int) -> Tokens:
    lengths = [len(one.rollout) for one in responses]
    columns = [_columns(one.rollout) for one in responses]
    return Tokens(
        problem=np.repeat(np.arange(len(responses)) // samples, lengths),
        position=np.concatenate([np.arange(length) for length in lengths]),
        columns={name: np.concatenate([own[name] for own in columns]) for name in columns[0]},
    )


def _columns(rollout: Rollout) -> dict[str, np.ndarray]:
    """What is known of each token of a response, [T] in float64."""
    teacher, entropy = _teacher(rollout), rollout.signal.entropy
    assert entropy is not None and rollout.student_entropy is not None, "both are recorded"
    found = {
        TEACHER_ENTROPY: entropy,
        STUDENT_ENTROPY: rollout.student_entropy,
        TEACHER_LOGPROB: teacher,
        LOG_RATIO: teacher.double() - rollout.student_logp.double(),
        **rollout.stats,
    }
    return {name: value.double().numpy() for name, value in found.items()}


def _teacher(rollout: Rollout) -> Tensor:
    assert rollout.teacher_logp is not None, "watched responses have the teacher's log-probs"
    return rollout.teacher_logp
