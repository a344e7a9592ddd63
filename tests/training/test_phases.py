"""What holds at each step of a run with phases, by hand, and the phases that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tandem.behaviours import Student, Teacher, TrustRegionBlend
from tandem.objectives import ReverseKL
from tandem.tasks.base import Prompt
from tandem.training.config import RunConfig, config_from_dict, dump_config, load_config
from tandem.training.parallel import open_world
from tandem.training.requests import RequestSource
from tandem.types import Clock

BLEND = {"kind": "trust_region_blend", "budget": 0.05, "warmup_steps": 4}
FULL = {"kind": "reverse_kl", "support": "full"}
# Teacher's text for four steps, then the blend from the same prompts, then the recipe's own.
PHASES: list[dict[str, Any]] = [
    {"until_step": 4, "behaviour": "teacher", "objective": FULL},
    {"until_step": 10, "prompts": "restart", "optimizer": "reset"},
]


def configured(recipe: dict[str, Any], phases: list[dict[str, Any]], **training: Any) -> RunConfig:
    training = {"steps": 12} | training
    return config_from_dict(
        recipe
        | {"behaviour": BLEND, "phases": phases, "training": training}
        | {"optimizer": {"lr": 1.0, "warmup_steps": 2, "schedule": "linear"}}
    )


def test_every_step_has_the_behaviour_loss_and_clock_of_its_phase(recipe: dict[str, Any]) -> None:
    config = configured(recipe, [*PHASES[:1], {**PHASES[1], "behaviour": "student"}])
    line = config.timeline()
    own, full = config.objective, ReverseKL(support="full")
    found = [(now.behaviour, now.objective, now.clock) for now in map(line.at, range(12))]
    teacher = [(Teacher(), full, Clock(k, 4)) for k in range(4)]
    student = [(Student(), own, Clock(k, 6)) for k in range(6)]
    blend = [(config.behaviour, own, Clock(k, 2)) for k in range(2)]
    assert found == teacher + student + blend
    assert line.objectives == [full, own]


def test_schedules_count_from_their_phases_start(recipe: dict[str, Any]) -> None:
    line = configured(recipe, [{"until_step": 3, "behaviour": "student"}]).timeline()
    budgets = [line.at(step).behaviour.budget_at(line.at(step).clock) for step in range(12)]
    assert budgets == pytest.approx([None] * 3 + [0.05, 0.0375, 0.025, 0.0125] + [0.0] * 5)
    assert isinstance(line.at(3).behaviour, TrustRegionBlend)


def test_without_phases_the_recipe_holds_throughout(recipe: dict[str, Any]) -> None:
    config = configured(recipe, [])
    line = config.timeline()
    for step in range(12):
        now = line.at(step)
        assert (now.behaviour, now.objective) == (config.behaviour, config.objective)
        assert (now.clock, now.prompts, now.resets) == (Clock(step, 12), step, False)
    assert line.rollouts == 12


def test_the_last_phase_may_go_on_to_the_end(recipe: dict[str, Any]) -> None:
    line = configured(recipe, [PHASES[0], {"behaviour": "student"}]).timeline()
    assert [(s.start, s.end) for s in line.stretches] == [(0, 4), (4, 12)]
    assert line.at(11).behaviour == Student() and line.at(11).clock == Clock(7, 8)


def test_the_learning_rate_counts_over_the_run_or_from_the_last_reset(
    recipe: dict[str, Any],
) -> None:
    # A rise over 2 steps as half a cosine, sin²(π/6) and sin²(π/3), then straight down to 0.
    def rise_and_fall(steps: int) -> list[float]:
        return [0.25, 0.75, *(1 - k / (steps - 2) for k in range(steps - 2))]

    kept = configured(recipe, [{"until_step": 4, "behaviour": "teacher"}]).timeline()
    assert [kept.at(k).rate for k in range(12)] == pytest.approx(rise_and_fall(12))
    line = configured(recipe, PHASES).timeline()
    expected = rise_and_fall(4) + rise_and_fall(8)
    assert [line.at(k).rate for k in range(12)] == pytest.approx(expected)
    assert [line.at(k).resets for k in range(12)] == [k == 4 for k in range(12)]


def test_prompts_go_on_or_start_again(recipe: dict[str, Any]) -> None:
    line = configured(recipe, PHASES).timeline()
    assert [line.at(k).prompts for k in range(12)] == [0, 1, 2, 3, *range(8)]
    going_on = [PHASES[0], {"until_step": 10}]
    line = configured(recipe, going_on).timeline()
    assert [line.at(k).prompts for k in range(12)] == list(range(12))
    # Two updates per batch of responses: prompts advance with the batches.
    line = configured(recipe, PHASES, updates_per_rollout=2).timeline()
    assert [line.at(k).prompts for k in range(12)] == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3]
    assert [line.prompts_of(r) for r in range(line.rollouts)] == [0, 1, 0, 1, 2, 3]


def test_a_prompt_that_is_asked_again_is_another_request(recipe: dict[str, Any]) -> None:
    config = configured(recipe, PHASES)
    line = config.timeline()
    prompts = [Prompt(str(i), ({"role": "user", "content": f"{i:03d}"},)) for i in range(100)]

    def encode(prompt: Prompt) -> tuple[int, ...]:
        return tuple(map(int, prompt.text))

    source = RequestSource(
        prompts,
        encode_student=encode,
        encode_teachers={"teacher": encode},
        settings=config.rollout,
        seed=0,
        rollouts=line.rollouts,
        prompts_of=line.prompts_of,
    )
    with open_world(torch.device("cpu")) as world:
        asked = [source(rollout, world) for rollout in range(12)]
    ids = [request.id for batch in asked for request in batch]
    assert ids == list(range(len(ids))), "ids are unique and in order"
    read = [[request.student_ids for request in batch] for batch in asked]
    assert read[4:8] == read[0:4] and read[8] != read[4]
    assert len(source.prompts) == 8 * 4, "no more prompts are read than are asked"
    for batch in asked:
        assert all(encode(source.prompt_of(r)) == r.student_ids for r in batch)


def test_phases_are_written_down_and_load_back(recipe: dict[str, Any], tmp_path: Any) -> None:
    config = configured(recipe, PHASES)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config
    changed = load_config(
        tmp_path / "again.yaml", ["phases.1.until_step=11", "phases.0.behaviour=student"]
    )
    assert (changed.phases[0].behaviour, changed.phases[1].until_step) == (Student(), 11)


SAMPLED = {"kind": "reverse_kl", "support": "sampled"}


@pytest.mark.parametrize(
    ("phases", "training", "said"),
    [
        (
            [{"until_step": 4}, {"until_step": 4}],
            {},
            "phases.1.until_step is 4, but the phase begins at step 4: phases follow one another, "
            "each until a later step",
        ),
        (
            [{"until_step": 13}],
            {},
            "phases.0.until_step is 13, but training.steps is 12: give phases.0.until_step=12 or "
            "less, or training.steps=13 or more",
        ),
        (
            [{"behaviour": "student"}, {"until_step": 4}],
            {},
            "phases.0 has no until_step; only the last phase may leave it out",
        ),
        (
            [{"until_step": 12}, {"behaviour": "student"}],
            {},
            "phases.1 begins at step 12, where the run ends: leave it out",
        ),
        (
            [{"until_step": 3}],
            {"updates_per_rollout": 2},
            "phases.0.until_step is 3, within a batch of responses that "
            "training.updates_per_rollout (2) updates share: give a multiple of 2",
        ),
        (
            [],
            {"updates_per_rollout": 5},
            "training.steps is 12, but every batch of responses serves "
            "training.updates_per_rollout (5) updates: give a multiple of 5",
        ),
        (
            [{"until_step": 11}, {"optimizer": "reset"}],
            {},
            "optimizer.warmup_steps is 2, more than the steps of its schedule (1, from step 11 to "
            "12), so the peak rate would never be reached; give optimizer.warmup_steps=1 or less",
        ),
        (
            [{"until_step": 0}],
            {},
            "phases.0.until_step is 0 in the configuration, but it should be greater than 0",
        ),
        (
            [{"until_step": 4, "behaviour": {"kind": "studnt"}}],
            {},
            "phases.0.behaviour.kind is 'studnt' in the configuration, which is no behaviour; did "
            "you mean 'student'?",
        ),
        (
            [{"until_step": 4, "optimizer": "forget"}],
            {},
            "phases.0.optimizer is 'forget' in the configuration, but it should be 'keep' or "
            "'reset'",
        ),
        (
            [{"until": 4}],
            {},
            "unknown key 'phases.0.until' in the configuration; did you mean 'until_step'?",
        ),
    ],
)
def test_phases_that_do_not_fit_are_refused_in_one_sentence(
    recipe: dict[str, Any], phases: list[dict[str, Any]], training: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError) as raised:
        configured(recipe, phases, **training)
    assert str(raised.value) == said


def test_a_loss_that_is_wrong_in_one_phase_is_refused_with_its_name(
    recipe: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match=r"^phases\.1: objective reverse_kl scores the drawn tok"):
        configured(recipe, [PHASES[0], {"objective": SAMPLED}])
    with pytest.raises(ValueError, match=r"^objective reverse_kl scores the drawn token as if"):
        config_from_dict(recipe | {"objective": SAMPLED})
    configured(recipe, [PHASES[0], {"objective": SAMPLED, "behaviour": "student"}])
    with pytest.raises(ValueError, match=r"^training\.updates_per_rollout is 2, so objective rev"):
        config_from_dict(
            recipe
            | {"objective": SAMPLED, "behaviour": "student"}
            | {"training": {"steps": 4, "updates_per_rollout": 2}}
        )
