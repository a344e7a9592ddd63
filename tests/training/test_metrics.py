"""What a step says of its rollouts."""

from __future__ import annotations

import pytest
import torch

from tandem.behaviours import (
    Behaviour,
    FixedBudgetBlend,
    OffPolicyMix,
    Student,
    TeacherPrefix,
    TrustRegionBlend,
)
from tandem.training.metrics import rollout_sums
from tandem.types import Author, Clock, Ended, Request, Rollout


def rollout(length: int, *, given: int = 0, ended: Ended = "eos", **stats: list[float]) -> Rollout:
    return Rollout(
        request=Request(0, (1,), (1,), forced_ids=(5,) * given),
        ids=torch.full((length,), 5),
        behaviour_logp=torch.zeros(length),
        student_logp=torch.zeros(length),
        teacher_logp=None,
        author=torch.full((length,), int(Author.STUDENT)),
        policy_version=0,
        ended=ended,
        stats={name: torch.tensor(values) for name, values in stats.items()},
    )


def means(
    rollouts: list[Rollout], behaviour: Behaviour | None = None, *, step: int = 0
) -> dict[str, float]:
    return rollout_sums(rollouts, behaviour=behaviour or Student(), clock=Clock(step, 10)).means()


def test_each_statistic_of_the_law_is_a_mean_over_tokens_by_its_own_name() -> None:
    found = means([rollout(1, replaced=[0.5], hops=[1.0]), rollout(2, replaced=[0.1, 0.3])])
    assert found["rollout/replaced"] == pytest.approx((0.5 + 0.1 + 0.3) / 3)
    # Only where there is one.
    assert found["rollout/hops"] == 1.0


def test_lengths_and_endings_are_means_over_responses() -> None:
    assert means([rollout(2), rollout(4, ended="length")]) == {
        "rollout/length": 3.0,
        "rollout/truncated": 0.5,
    }


def test_a_budget_that_is_used_up_is_told_as_0() -> None:
    blend = TrustRegionBlend(budget=0.1, warmup_steps=4)
    after = means([rollout(3)], blend, step=4)
    assert after["rollout/exponent"] == after["rollout/kl_spent"] == 0.0
    during = means([rollout(2, exponent=[0.5, 1.0], kl_spent=[0.1, 0.1])], blend, step=3)
    assert during["rollout/exponent"] == 0.75
    told = means([rollout(1, exponent=[0.0], kl_spent=[0.0])], FixedBudgetBlend(budget=0.0))
    assert told["rollout/exponent"] == 0.0


@pytest.mark.parametrize("behaviour", [TeacherPrefix(), OffPolicyMix()], ids=lambda b: b.kind)
def test_given_tokens_are_counted_wherever_a_behaviour_gives_some(behaviour: Behaviour) -> None:
    # 2 of 2 + 1 of 3 + 0 of 5 tokens; one response of three has none of the student's.
    found = means([rollout(2, given=2), rollout(3, given=1), rollout(5)], behaviour)
    assert found["rollout/given"] == pytest.approx(3 / 10)
    assert found["rollout/without_student"] == pytest.approx(1 / 3)
    later = means([rollout(5)], behaviour, step=9)
    assert later["rollout/given"] == later["rollout/without_student"] == 0.0


def test_given_tokens_are_not_spoken_of_where_nothing_is_given() -> None:
    for behaviour in (Student(), OffPolicyMix(on_policy_fraction=1.0)):
        assert not {"rollout/given", "rollout/without_student"} & set(
            means([rollout(2)], behaviour)
        )
