"""pass@1: the mean over problems of the mean over samples, with an interval over problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tandem.evaluation.intervals import Interval, mean_interval
from tandem.rollout.refusal import naming_prompts
from tandem.tasks.base import Grade, Prompt, Task
from tandem.types import Request, Rollout

Encoded = tuple[tuple[int, ...], tuple[int, ...]]
SHOWN = 8


@dataclass(frozen=True, slots=True)
class Completion:
    """One graded answer; kept for the samples shown in a report."""

    prompt: Prompt
    text: str
    tokens: int
    truncated: bool
    grade: Grade


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What a model scored on a set of problems.

    pass_at_1: mean and 95 % interval. scores: problem id -> mean over its samples. dropped:
    problems left out because their prompt is over the limit. mean_length in tokens, the end token
    included; truncated and no_answer are shares of all completions. shown: one completion of
    each of the first problems.
    """

    pass_at_1: Interval
    scores: dict[str, float]
    samples: int
    dropped: int
    mean_length: float
    truncated: float
    no_answer: float
    shown: tuple[Completion, ...]

    def metrics(self) -> dict[str, float]:
        """The `eval/...` keys of metrics.jsonl."""
        return {
            "eval/pass@1": self.pass_at_1.mean,
            "eval/pass@1_low": self.pass_at_1.low,
            "eval/pass@1_high": self.pass_at_1.high,
            "eval/length": self.mean_length,
            "eval/truncated": self.truncated,
            "eval/no_answer": self.no_answer,
        }


def evaluate(
    *,
    task: Task,
    prompts: Sequence[Prompt],
    samples: int,
    encode: Callable[[Prompt], Encoded],
    decode: Callable[[Rollout], str],
    generate: Callable[[list[Request]], list[Rollout]],
    max_prompt_tokens: int,
    first_request_id: int = 0,
) -> EvaluationResult:
    """Answer every prompt `samples` times and grade.

    encode: a prompt's ids for student and teacher. decode: a response's text, end removed.
    generate: the engine with behaviour, sampling and seed closed over. first_request_id: random
    draws count from here, so that evaluations of one run draw apart from its rollouts. Prompts
    longer than `max_prompt_tokens` are dropped and counted, never cut. Completions that reached
    the length limit are graded as they stand. Raises ValueError where no prompt is left.
    """
    encoded = [(prompt, encode(prompt)) for prompt in prompts]
    kept = [(p, ids) for p, ids in encoded if max(map(len, ids)) <= max_prompt_tokens]
    if not kept:
        raise ValueError(
            f"none of {len(prompts)} prompts fits in max_prompt_tokens {max_prompt_tokens}; "
            "raise the limit"
        )
    requests = [
        Request(id=first_request_id + i * samples + k, student_ids=ids[0], teacher_ids=ids[1])
        for i, (_, ids) in enumerate(kept)
        for k in range(samples)
    ]
    asked = [prompt for prompt, _ in kept for _ in range(samples)]
    with naming_prompts(lambda request: asked[request.id - first_request_id].id):
        rollouts = generate(requests)
    texts = [decode(rollout) for rollout in rollouts]
    grades = task.grade_many(list(zip(asked, texts, strict=True)))
    completions = [
        Completion(prompt, text, len(rollout), rollout.ended == "length", grade)
        for prompt, text, rollout, grade in zip(asked, texts, rollouts, grades, strict=True)
    ]
    return summary(completions, samples=samples, dropped=len(prompts) - len(kept))


def summary(completions: list[Completion], *, samples: int, dropped: int) -> EvaluationResult:
    """The result of `samples` completions of each problem, those of one problem together."""
    right: dict[str, list[bool]] = {}
    for completion in completions:
        right.setdefault(completion.prompt.id, []).append(completion.grade.correct)
    scores = {problem: float(np.mean(marks)) for problem, marks in right.items()}
    return EvaluationResult(
        pass_at_1=mean_interval(list(scores.values()), samples=samples),
        scores=scores,
        samples=samples,
        dropped=dropped,
        mean_length=float(np.mean([c.tokens for c in completions])),
        truncated=float(np.mean([c.truncated for c in completions])),
        no_answer=float(np.mean([not c.grade.answered for c in completions])),
        shown=tuple(completions[: SHOWN * samples : samples]),
    )
