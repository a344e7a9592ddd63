"""Which prompts a step answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tandem.tasks.base import Prompt
from tandem.training.config import RolloutSettings
from tandem.training.parallel import World, open_world
from tandem.training.requests import RequestSource

SETTINGS = RolloutSettings(
    prompts_per_step=4,
    samples_per_prompt=3,
    max_prompt_tokens=6,
    max_new_tokens=8,
    truncated="keep",
)


@pytest.fixture(scope="module")
def world() -> World:
    with open_world(torch.device("cpu")) as world:
        return world


def prompts(count: int) -> list[Prompt]:
    return [
        Prompt(id=str(i), messages=({"role": "user", "content": f"{i}"},)) for i in range(count)
    ]


def encode(prompt: Prompt) -> tuple[int, ...]:
    return tuple(map(int, prompt.text))


def source(
    count: int = 10,
    *,
    seed: int = 0,
    steps: int = 20,
    encode_teacher: Callable[[Prompt], tuple[int, ...]] = encode,
) -> RequestSource:
    return RequestSource(
        prompts(count),
        encode_student=encode,
        encode_teachers={"teacher": encode_teacher},
        settings=SETTINGS,
        seed=seed,
        rollouts=steps,
    )


def test_a_step_asks_each_prompt_as_often_as_the_recipe_says(world: World) -> None:
    asked = source(30)(0, world)
    assert len(asked) == 12
    assert set(Counter(r.student_ids for r in asked).values()) == {3}


def test_requests_are_a_function_of_seed_and_step_alone(world: World) -> None:
    first, second = source(), source()
    for step in (7, 0, 3):
        assert first(step, world) == second(step, world)
    assert first(0, world) != source(seed=1)(0, world)


def test_an_epoch_asks_every_prompt_once_and_the_next_in_another_order(world: World) -> None:
    requests = source(8, steps=6)
    epochs = [
        [r.student_ids for step in (2 * e, 2 * e + 1) for r in requests(step, world)[::3]]
        for e in range(3)
    ]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_ids_are_unique_in_a_run_whatever_the_ranks(world: World) -> None:
    requests = source()
    alone = [r for step in range(20) for r in requests(step, world)]
    assert [r.id for r in alone] == list(range(240))
    ranks = [replace(world, rank=rank, size=3) for rank in range(3)]
    shared = [r for step in range(20) for rank in ranks for r in requests(step, rank)]
    assert sorted(shared, key=lambda r: r.id) == alone


def test_the_prompt_of_a_request_is_the_one_it_was_made_from(world: World) -> None:
    requests = source()
    for step in range(20):
        for request in requests(step, world):
            assert encode(requests.prompt_of(request)) == request.student_ids


def test_long_prompts_are_dropped_and_counted_and_never_cut(world: World) -> None:
    def long_for_odd(prompt: Prompt) -> tuple[int, ...]:
        return (9,) * 7 if int(prompt.text) % 2 else encode(prompt)

    requests = source(10, encode_teacher=long_for_odd)
    assert requests.dropped == 5
    asked = {r.student_ids for step in range(20) for r in requests(step, world)}
    assert asked == {(0,), (2,), (4,), (6,), (8,)}


def test_only_as_many_prompts_are_encoded_as_the_run_needs() -> None:
    calls: list[str] = []

    def counting(prompt: Prompt) -> tuple[int, ...]:
        calls.append(prompt.id)
        return encode(prompt)

    source(1000, steps=2, encode_teacher=counting)
    assert len(calls) == 8


def test_no_prompt_or_none_that_fits_is_an_error_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="the task has no training prompts; check its data set"):
        source(0)
    with pytest.raises(
        ValueError,
        match=r"all 10 training prompts are longer than rollout\.max_prompt_tokens \(6\); the "
        r"shortest needs 8$",
    ):
        source(10, encode_teacher=lambda prompt: (1,) * 8)
