"""A student and its teachers, loaded and asked: what the step-0 probe and the diagnosis share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tandem.behaviours.base import Behaviour
from tandem.models.cast import Cast, speaker, teaching
from tandem.models.loading import LoadedModel
from tandem.models.prompts import decode_response, encode_prompt
from tandem.models.vocabulary import Alignment
from tandem.rollout.engine import Engine
from tandem.rollout.protocol import RolloutEngine
from tandem.rollout.refusal import naming_prompts
from tandem.tasks.base import Prompt, Task
from tandem.training.config import RunConfig
from tandem.training.teachers import teacher_of
from tandem.types import Clock, Request, Rollout, Sampling, SignalSpec

Progress = Callable[[int, int], None]
Watch = Callable[[str], Progress]
"""Makes the progress callback (done, total) of a phase from the phase's name."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One student with the teachers of a run, on the vocabulary that the run trains on.

    engine: the student with any of its teachers. alone: each teacher by itself; it reads a
    request's `student_ids`. limit: the longest response, in tokens. seed: of all draws.
    """

    student: LoadedModel
    teachers: Mapping[str, LoadedModel]
    alignment: Alignment
    engine: RolloutEngine
    alone: Mapping[str, RolloutEngine]
    max_prompt_tokens: int
    limit: int
    seed: int

    def text(self, rollout: Rollout) -> str:
        """A response's text, its end removed."""
        return decode_response(self.student.tokenizer, rollout.ids, self.alignment)


def pairs_of(
    config: RunConfig,
    cast: Cast,
    students: Sequence[LoadedModel],
    *,
    device: torch.device,
    cache_bytes: int | None,
) -> list[Pair]:
    """Each of the students with the teachers of a run.

    cast: the run's own models; their vocabulary holds for all students, as it does in training.
    device: where they lie; teachers that take turns wait on the host. cache_bytes: as in `Engine`.
    """
    alignment, in_turns = cast.align(), config.residency == "one"
    teachers = teaching(cast, alignment, device=device, in_turns=in_turns)
    rollout = config.rollout
    alone = {
        name: Engine(teacher, {}, slots=rollout.slots, cache_bytes=cache_bytes)
        for name, teacher in teachers.items()
    }
    return [
        Pair(
            student=student,
            teachers=cast.teachers,
            alignment=alignment,
            engine=Engine(
                speaker(student, alignment),
                teachers,
                slots=rollout.slots,
                block=rollout.block,
                cache_bytes=cache_bytes,
            ),
            alone=alone,
            max_prompt_tokens=rollout.max_prompt_tokens,
            limit=rollout.max_new_tokens,
            seed=config.seed,
        )
        for student in students
    ]


@dataclass(frozen=True, slots=True)
class Question:
    """A problem as both models read it; teacher: the name of the one that judges it."""

    prompt: Prompt
    student_ids: tuple[int, ...]
    teacher_ids: tuple[int, ...]
    teacher: str


def questions_of(pair: Pair, prompts: Sequence[Prompt]) -> list[Question]:
    """The problems that fit, in order; those too long for either model are left out, never cut.

    Raises ValueError where fewer than two are left: every interval here is over problems.
    """
    found: list[Question] = []
    for prompt in prompts:
        name = teacher_of(prompt, pair.teachers)
        read = encode_prompt(pair.student, prompt), encode_prompt(pair.teachers[name], prompt)
        if max(map(len, read)) <= pair.max_prompt_tokens:
            found.append(Question(prompt, *read, name))
    if len(found) < 2:
        raise ValueError(
            f"{len(found)} of {len(prompts)} problems fit in rollout.max_prompt_tokens "
            f"({pair.max_prompt_tokens}), and intervals need 2 problems or more; ask for more "
            "problems or raise the limit"
        )
    return found


@dataclass(frozen=True, slots=True)
class Response:
    """A graded response to a question; sample: its number among those to the question."""

    question: Question
    sample: int
    rollout: Rollout
    text: str
    correct: bool


def respond(
    pair: Pair,
    task: Task,
    questions: Sequence[Question],
    *,
    behaviour: Behaviour,
    clock: Clock,
    samples: int,
    record: SignalSpec,
    on_progress: Progress,
) -> list[Response]:
    """`samples` graded responses to each question, those of one question together.

    A draw depends on the problem, the sample and the place of the token, and on nothing else: two
    behaviours differ by their laws and not by their draws, and what else is asked changes nothing.
    """
    asked = [(question, sample) for question in questions for sample in range(samples)]
    requests = [
        Request(
            request_id("response", question.prompt.id, sample),
            question.student_ids,
            question.teacher_ids,
            teacher=question.teacher,
        )
        for question, sample in asked
    ]
    names = {r.id: q.prompt.id for r, (q, _) in zip(requests, asked, strict=True)}
    with naming_prompts(lambda request: names[request.id]):
        rollouts = pair.engine.generate(
            requests,
            behaviour=behaviour,
            clock=clock,
            sampling=Sampling(pair.limit),
            seed=pair.seed,
            record=record,
            on_progress=lambda _, done: on_progress(done, len(requests)),
        )
    texts = [pair.text(rollout) for rollout in rollouts]
    graded = task.grade_many(
        [(question.prompt, text) for (question, _), text in zip(asked, texts, strict=True)]
    )
    return [
        Response(question, sample, rollout, text, grade.correct)
        for (question, sample), rollout, text, grade in zip(
            asked, rollouts, texts, graded, strict=True
        )
    ]


def request_id(*parts: object) -> int:
    """A request id that stands for these parts, in 62 bits: two do not meet by chance."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 2
