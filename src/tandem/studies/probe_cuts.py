"""Responses cut after some tokens, and continued by the teacher alone or the student alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tandem.behaviours import Student
from tandem.studies.diagnostics_pair import Pair, Progress, Question, Response, request_id
from tandem.tasks.base import Task
from tandem.types import Author, Clock, Request, Rollout, Sampling, SignalSpec

Who = Literal["teacher", "student"]
CONTINUERS: tuple[Who, ...] = ("teacher", "student")


@dataclass(frozen=True, slots=True)
class Cut:
    """The first tokens of a response to a question, which `who` is to continue.

    id: of the request, and of the cut: equal prefixes of one sample of a problem are one and the
    same, whichever behaviour wrote them. Its draws are its own, not those of the response.
    """

    id: int
    question: Question
    prefix: tuple[int, ...]
    who: Who

    def request(self) -> Request:
        """Asked of an engine whose student is `who`."""
        question = self.question
        return Request(
            self.id,
            question.student_ids if self.who == "student" else question.teacher_ids,
            question.teacher_ids,
            teacher=question.teacher,
            forced_ids=self.prefix,
            forced_author=Author.STUDENT,
        )


def cut_of(response: Response, length: int, who: Who) -> Cut | None:
    """What is left to continue of a response at `length` tokens; None where it had ended."""
    if len(response.rollout) <= length:
        return None
    question, prefix = response.question, tuple(response.rollout.ids[:length].tolist())
    identity = request_id("continued", question.prompt.id, response.sample, prefix, who)
    return Cut(identity, question, prefix, who)


def continued(
    pair: Pair, task: Task, cuts: Sequence[Cut], *, on_progress: Progress
) -> dict[int, bool]:
    """Whether each cut, continued by its own model alone to an end or the limit, is right; by the
    cut's id. The same cut is continued once."""
    distinct = list({cut.id: cut for cut in cuts}.values())
    finished = list(finish(pair, distinct, on_progress=on_progress))
    graded = task.grade_many(
        [(cut.question.prompt, pair.text(rollout)) for cut, rollout in finished]
    )
    return {cut.id: grade.correct for (cut, _), grade in zip(finished, graded, strict=True)}


def finish(
    pair: Pair, cuts: Sequence[Cut], *, on_progress: Progress
) -> Iterator[tuple[Cut, Rollout]]:
    """Each cut with the whole response, its prefix included."""
    groups: dict[str | None, list[Cut]] = {}
    for cut in cuts:
        name = None if cut.who == "student" else cut.question.teacher
        groups.setdefault(name, []).append(cut)
    before = 0
    for name, own in groups.items():
        engine = pair.engine if name is None else pair.alone[name]
        rollouts = engine.generate(
            [cut.request() for cut in own],
            # Each engine's own model speaks: the one that its requests call the student.
            behaviour=Student(),
            clock=Clock(0, 1),
            sampling=Sampling(pair.limit),
            seed=pair.seed,
            record=SignalSpec(),
            on_progress=lambda _, done, before=before: on_progress(before + done, len(cuts)),
        )
        before += len(own)
        yield from zip(own, rollouts, strict=True)
