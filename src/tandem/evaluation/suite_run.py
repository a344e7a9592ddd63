"""A suite answered and graded, resumable: finished answers are kept, and more samples extend them.

The random draws of an answer are those of (seed, suite, problem, sample): they depend neither on
how many samples there will be, nor on which problems are asked, nor on where a run was stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.evaluation.evaluate import Completion
from tandem.evaluation.generations import Generation, Generations, opened, write_whole
from tandem.evaluation.suite_result import SuiteResult, summarise
from tandem.evaluation.suites.base import Suite
from tandem.rollout.refusal import naming_prompts
from tandem.tasks.base import Grade, Prompt
from tandem.types import Request, Rollout

RESULT = "result.json"
Progress = Callable[[int, int], None]
# (requests, told how many of them are done) → one rollout each, in their order.
Generate = Callable[[list[Request], Callable[[int], None]], list[Rollout]]

# Far above the ids of any run's rollouts and evaluations.
_FIRST_ID = 2**62
_SAMPLE_BITS = 16
# Answers are kept when a batch is done, so a killed run loses about so much work at most. Longer
# batches leave fewer rows idle at their ends.
KEEP_EVERY_SECONDS = 120.0
GRADED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Asking:
    """How a model is asked and heard.

    encode: a prompt's ids. decode: a response's text, end removed. generate: the engine with
    behaviour, sampling and seed closed over. identity: the model's weights, its prompt, and the
    seed, as plain JSON. batch: how many answers to begin with. max_prompt_tokens: longer prompts
    are dropped and counted.
    """

    encode: Callable[[Prompt], tuple[int, ...]]
    decode: Callable[[Rollout], str]
    generate: Generate
    identity: Mapping[str, Any]
    batch: int
    max_prompt_tokens: int


def request_id(suite: str, problem: str, sample: int) -> int:
    """The counter of an answer's random draws; the same however many others are asked for."""
    digest = hashlib.sha256(f"{suite} {problem}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") % 2**46
    return _FIRST_ID + (place << _SAMPLE_BITS) + sample


def run_suite(
    suite: Suite,
    asking: Asking,
    *,
    folder: Path,
    problems: int | None = None,
    on_answer: Progress,
    on_grade: Progress,
    on_count: Progress,
) -> SuiteResult:
    """Answer what is missing in `folder`, grade `suite.samples` answers to each problem, and write
    result.json there.

    problems: only the first so many. on_answer, on_grade: told (done, total) answers; on_count: how
    far the counting of votes is. Answers that reached the length limit are graded as they stand,
    and graded anew each time. Raises ValueError where the folder holds answers of another model or
    other settings, no prompt is short enough, or answers could not be graded here.
    """
    suite.ready()
    _check(suite)
    asked = suite.problems[:problems]
    kept = _short_enough(asked, asking)
    with opened(folder, _identity(suite, asking)) as generations:
        _answer(suite, asking, kept, generations, on_answer)
        completions = _graded(suite, [prompt for prompt, _ in kept], generations, on_grade)
        result = summarise(
            completions,
            suite=suite.kind,
            samples=suite.samples,
            dropped=len(asked) - len(kept),
            left_out=len(suite.problems) - len(asked),
            on_count=on_count,
        )
        write_whole(folder / RESULT, {**result.as_json(), "of": _identity(suite, asking)})
    return result


def _check(suite: Suite) -> None:
    if suite.samples >= 2**_SAMPLE_BITS:
        raise ValueError(
            f"suite {suite.kind} is asked for {suite.samples} samples per problem; ask for fewer "
            f"than {2**_SAMPLE_BITS}"
        )
    repeated = [p for p, n in Counter(p.id for p in suite.problems).items() if n > 1]
    if repeated:
        raise ValueError(
            f"suite {suite.kind} gives the id {repeated[0]!r} to several problems, and answers are "
            f"kept by it; mend {suite.source()}"
        )


def _identity(suite: Suite, asking: Asking) -> dict[str, Any]:
    """Everything an answer depends on besides its problem and number."""
    texts = json.dumps([[p.id, p.messages] for p in suite.problems], ensure_ascii=False)
    return {
        "suite": suite.kind,
        "problems": hashlib.sha256(texts.encode()).hexdigest()[:12],
        "temperature": suite.temperature,
        "max_new_tokens": suite.max_new_tokens,
        **asking.identity,
    }


def _short_enough(
    prompts: Sequence[Prompt], asking: Asking
) -> list[tuple[Prompt, tuple[int, ...]]]:
    encoded = [(prompt, asking.encode(prompt)) for prompt in prompts]
    kept = [(p, ids) for p, ids in encoded if len(ids) <= asking.max_prompt_tokens]
    if not kept:
        raise ValueError(
            f"none of {len(prompts)} prompts fits in max_prompt_tokens {asking.max_prompt_tokens}; "
            "raise the limit"
        )
    return kept


def _answer(
    suite: Suite,
    asking: Asking,
    kept: Sequence[tuple[Prompt, tuple[int, ...]]],
    generations: Generations,
    on_answer: Progress,
) -> None:
    """Make and keep the answers that are missing, first samples first: a run that is stopped has
    as many whole samples as it had time for."""
    total = len(kept) * suite.samples
    missing = [
        (prompt, ids, sample)
        for sample in range(suite.samples)
        for prompt, ids in kept
        if (prompt.id, sample) not in generations.found
    ]
    size, done = asking.batch, total - len(missing)
    on_answer(done, total)
    while missing:
        part, missing = missing[:size], missing[size:]
        began = time.monotonic()
        requests = [
            Request(request_id(suite.kind, prompt.id, sample), ids, ids)
            for prompt, ids, sample in part
        ]
        names = {
            request.id: prompt.id for request, (prompt, _, _) in zip(requests, part, strict=True)
        }
        before = done
        with naming_prompts(lambda request, names=names: names[request.id]):
            rollouts = asking.generate(
                requests, lambda n, before=before: on_answer(before + n, total)
            )
        generations.add(
            [
                Generation(
                    problem=prompt.id,
                    sample=sample,
                    text=asking.decode(rollout),
                    tokens=len(rollout),
                    truncated=rollout.ended == "length",
                )
                for (prompt, _, sample), rollout in zip(part, rollouts, strict=True)
            ]
        )
        done += len(part)
        on_answer(done, total)
        if time.monotonic() - began < KEEP_EVERY_SECONDS / 2:
            size *= 2


def _graded(
    suite: Suite, prompts: Sequence[Prompt], generations: Generations, on_grade: Progress
) -> list[Completion]:
    """All completions with their grades, the samples of one problem together and in order."""
    answers = [
        (prompt, generations.found[prompt.id, sample])
        for prompt in prompts
        for sample in range(suite.samples)
    ]
    grades: list[Grade] = []
    on_grade(0, len(answers))
    for start in range(0, len(answers), GRADED_AT_ONCE):
        part = answers[start : start + GRADED_AT_ONCE]
        grades += suite.grade_many([(prompt, answer.text) for prompt, answer in part])
        on_grade(len(grades), len(answers))
    return [
        Completion(prompt, answer.text, answer.tokens, answer.truncated, grade)
        for (prompt, answer), grade in zip(answers, grades, strict=True)
    ]
