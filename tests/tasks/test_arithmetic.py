"""The arithmetic task: chains worked by hand, exact grading, splits that never overlap."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.tasks.arithmetic import ALPHABET, Arithmetic, split_of, worked

SMALL: dict[str, Any] = {"train_size": 300, "validation_size": 50, "test_size": 100}


@pytest.mark.parametrize(
    ("problem", "answer"),
    [
        ("47+38-21=", "85-21=64"),
        ("12-45+7=", "-33+7=-26"),
        ("5+6=", "11"),
        ("10-20-30+40=", "-10-30+40=-40+40=0"),
    ],
)
def test_worked_answers_by_hand(problem: str, answer: str) -> None:
    assert worked(problem) == answer


@given(st.lists(st.integers(10, 99), min_size=2, max_size=5), st.randoms())
def test_last_number_is_what_python_computes(numbers: list[int], source: random.Random) -> None:
    text = str(numbers[0]) + "".join(source.choice("+-") + str(n) for n in numbers[1:])
    assert worked(text + "=").rsplit("=", 1)[-1] == str(eval(text))
    # Every step is an equal value of the one before.
    assert len({eval(step) for step in worked(text + "=").split("=")}) == 1


def test_grading_is_exact() -> None:
    task = Arithmetic(**SMALL)
    prompt = task.prompts("test")[0]
    wrong = str(int(prompt.answer) + 1)
    assert task.grade(prompt, task.solution(prompt)).correct
    assert task.grade(prompt, prompt.answer).correct, "the steps do not count"
    assert not task.grade(prompt, wrong).correct
    assert task.grade(prompt, wrong).answered
    for text in (
        "",
        "=",
        f"{prompt.answer}=",
        f"+{prompt.answer}",
        "1--2",
        f"0{prompt.answer}+",
        "1+2",
    ):
        grade = task.grade(prompt, text)
        assert not grade.correct and not grade.answered, text
    assert not task.grade(prompt, f"{prompt.answer}0").correct
    assert not task.grade(prompt, f" {prompt.answer}").correct
    assert task.steps_right(prompt, task.solution(prompt))
    assert not task.steps_right(prompt, f"1=2={prompt.answer}")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50))
def test_splits_never_overlap_whatever_the_seeds(seed: int, other: int) -> None:
    train = {p.text for p in Arithmetic(seed=seed, **SMALL).prompts("train")}
    held_out = Arithmetic(seed=other, **SMALL)
    for split in ("validation", "test"):
        assert train.isdisjoint(p.text for p in held_out.prompts(split))


def test_prompts_are_distinct_and_the_same_in_every_process() -> None:
    task = Arithmetic(**SMALL)
    texts = [p.text for p in task.prompts("train")]
    assert len(set(texts)) == len(texts) == SMALL["train_size"]
    assert set("".join(texts)) <= set(ALPHABET)
    assert all(split_of(text) == "train" for text in texts)
    code = (
        "from tandem.tasks.arithmetic import Arithmetic;"
        f"print([p.text for p in Arithmetic(**{SMALL}).prompts('train')])"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == str(texts)


def test_split_shares_are_those_documented() -> None:
    source = random.Random(0)
    task = Arithmetic()
    splits = [split_of(task._chain(source)) for _ in range(20_000)]
    # 5 standard errors of a share of 20,000 draws.
    assert splits.count("test") / 20_000 == pytest.approx(0.10, abs=0.011)
    assert splits.count("validation") / 20_000 == pytest.approx(0.05, abs=0.008)


def test_more_problems_than_exist_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"train_size is 20000, but chains of 2 numbers of 1 digit"
    ):
        Arithmetic(operands=2, digits=1)


def test_tasks_import_no_torch() -> None:
    code = "import sys, tandem.tasks; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_problem_brings_its_worked_answer_as_a_completion() -> None:
    task = Arithmetic(train_size=20, validation_size=20, test_size=20)
    for prompt in task.prompts("train"):
        assert prompt.completion == task.solution(prompt)
        assert prompt.answer == prompt.completion.rsplit("=", 1)[-1]
        assert prompt.domain == "arithmetic"
