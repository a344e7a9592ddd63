"""pass@1 on answers that are known in advance."""

from __future__ import annotations

import pytest
import torch

from tandem.evaluation import evaluate, wilson
from tandem.evaluation.evaluate import EvaluationResult
from tandem.tasks.arithmetic import Arithmetic
from tandem.tasks.base import Prompt
from tandem.types import Request, Rollout

TASK = Arithmetic(train_size=100, validation_size=50, test_size=60)
PROMPTS = TASK.prompts("test")


def answer_of(request: Request, *, right: bool, length: int) -> Rollout:
    """A rollout whose ids encode what to say: 1 right, 0 wrong."""
    ids = torch.full((length,), int(right))
    zeros = torch.zeros(length)
    return Rollout(
        request=request,
        ids=ids,
        behaviour_logp=zeros,
        student_logp=zeros,
        teacher_logp=None,
        author=torch.zeros(length, dtype=torch.int64),
        policy_version=0,
        ended="length" if length == 9 else "eos",
    )


def run(prompts: list[Prompt], *, samples: int, limit: int = 100) -> EvaluationResult:
    """Sample k of problem i is right iff k <= i mod 4; every fourth answer is truncated."""
    index = {prompt.text: i for i, prompt in enumerate(prompts)}
    asked: list[tuple[Request, Prompt]] = []

    def encode(prompt: Prompt) -> tuple[tuple[int, ...], tuple[int, ...]]:
        ids = tuple(map(ord, prompt.text))
        return ids, (*ids, 0)

    def generate(requests: list[Request]) -> list[Rollout]:
        # An id names the random draws: two samples with one id would be the same answer.
        assert [r.id for r in requests] == list(range(1_000, 1_000 + len(requests)))
        by_text = {prompt.text: prompt for prompt in prompts}
        asked.extend((r, by_text["".join(map(chr, r.student_ids))]) for r in requests)
        return [
            answer_of(
                r,
                right=(r.id - 1_000) % samples <= index[prompt.text] % 4,
                length=9 if r.id % 4 == 0 else 5,
            )
            for r, prompt in asked
        ]

    def decode(rollout: Rollout) -> str:
        prompt = next(p for r, p in asked if r is rollout.request)
        return TASK.solution(prompt) if rollout.ids[0] == 1 else "?"

    return evaluate(
        task=TASK,
        prompts=prompts,
        samples=samples,
        encode=encode,
        decode=decode,
        generate=generate,
        max_prompt_tokens=limit,
        first_request_id=1_000,
    )


def test_pass_at_1_is_the_mean_of_means() -> None:
    result = run(PROMPTS[:8], samples=4)
    assert list(result.scores.values()) == [0.25, 0.5, 0.75, 1.0] * 2
    assert result.pass_at_1.mean == pytest.approx(0.625)
    assert result.mean_length == pytest.approx(6.0)
    assert result.truncated == pytest.approx(0.25)
    assert result.no_answer == pytest.approx(1 - 0.625)
    assert len(result.shown) == 8
    assert set(result.metrics()) == {
        "eval/pass@1",
        "eval/pass@1_low",
        "eval/pass@1_high",
        "eval/length",
        "eval/truncated",
        "eval/no_answer",
    }


def test_one_sample_takes_wilson() -> None:
    result = run(PROMPTS[:40], samples=1)
    assert result.pass_at_1 == wilson(1.0, 40)


def test_prompts_over_the_limit_are_dropped_and_counted_never_cut() -> None:
    long = Prompt(id="long", messages=({"role": "user", "content": "1+" * 60 + "1="},))
    # 9 characters and the teacher's extra token make 10: exactly at the limit.
    result = run([long, *[p for p in PROMPTS if len(p.text) == 9][:5]], samples=1, limit=10)
    assert result.dropped == 1
    assert len(result.scores) == 5
    with pytest.raises(ValueError, match="none of 1 prompts fits in max_prompt_tokens 10; raise"):
        run([long], samples=1, limit=10)
    # The student's nine would fit, the teacher's ten do not.
    with pytest.raises(ValueError, match="fits in max_prompt_tokens 9; raise"):
        run([p for p in PROMPTS if len(p.text) == 9], samples=1, limit=9)
