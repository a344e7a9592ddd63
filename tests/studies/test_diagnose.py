"""What `tandem diagnose` says of a run, against counts by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from pair_cases import CLOCK, Case, case, plain_logp, unwatched

from tandem.behaviours import (
    FixedBudgetBlend,
    OffPolicyMix,
    SpeculativeKD,
    Student,
    TeacherPrefix,
    TrustRegionBlend,
)
from tandem.studies.diagnose import (
    BUDGETS,
    PLOTTED,
    SHOWN,
    Diagnosis,
    Sets,
    diagnose,
    sets_of,
    watched_law,
)
from tandem.studies.diagnostics_sets import Answers
from tandem.studies.diagnostics_watch import OUTSIDE
from tandem.types import Clock

ROWS: list[dict[str, Any]] = [
    {"step": 0, "eval/pass@1": 0.1},
    {"step": 1, "train/grad_norm": 2.0, "rollout/teacher_entropy": 0.4, "rollout/budget": 0.1},
    {"step": 2, "train/grad_norm": 1.5, "rollout/teacher_entropy": None, "rollout/budget": 0.05},
]
SKD = SpeculativeKD(top_k=4, teacher_temperature=0.6)


@pytest.fixture(scope="module")
def small() -> Case:
    return case(8)


@pytest.fixture(scope="module")
def sets(small: Case) -> Sets:
    return sets_of(
        small.pair,
        small.pair,
        small.config.task,
        small.questions,
        own=SKD,
        clock=CLOCK,
        samples=3,
        watch=unwatched,
    )


@pytest.fixture(scope="module")
def found(small: Case, sets: Sets) -> Diagnosis:
    return diagnose(small.pair, sets, ROWS)


def mean_of(given: Answers, name: str) -> float:
    return float(given.tokens.columns[name].mean())


def test_the_row_without_a_budget_is_the_student_itself(
    small: Case, sets: Sets, found: Diagnosis
) -> None:
    student = small.asked(Student(), samples=3)
    assert [r.rollout.ids.tolist() for r in sets.student.responses] == [
        r.rollout.ids.tolist() for r in student.responses
    ]
    for name in ("accuracy", "teacher_logprob", "teacher_entropy"):
        x, mean, low, high = found.curves[f"{name}_by_budget"].points[0]
        scalar = found.scalars[name]
        assert (x, mean, low, high) == (0.0, scalar.mean, scalar.low, scalar.high)
    assert found.curves["exponent_by_budget"].points[0] == (0.0, 0.0, 0.0, 0.0)
    assert found.curves["kl_spent_by_budget"].points[0] == (0.0, 0.0, 0.0, 0.0)


def test_a_larger_budget_brings_the_teacher_nearer(found: Diagnosis) -> None:
    assert [point[0] for point in found.curves["exponent_by_budget"].points] == list(BUDGETS)
    exponents = [point[1] for point in found.curves["exponent_by_budget"].points]
    assert exponents == sorted(exponents) and exponents[-1] > exponents[1] > 0.0
    for budget, spent, _, _ in found.curves["kl_spent_by_budget"].points:
        assert spent <= budget * 1.001 + 1e-6


def test_auroc_is_the_share_of_pairs_in_order(small: Case, sets: Sets) -> None:
    for given in (sets.blends[0.05], sets.own):
        scored: list[tuple[float, bool]] = []
        for one in given.responses:
            p, q = plain_logp(small.pair, one.question, one.rollout.ids)
            ratio = (q - p).gather(1, one.rollout.ids[:, None]).mean()
            scored.append((float(ratio), one.correct))
        right, wrong = ([s for s, mark in scored if mark is kind] for kind in (True, False))
        assert right and wrong, "nothing to tell apart"
        pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(right, wrong)]
        area = given.told_apart()
        assert area is not None and area.mean == pytest.approx(np.mean(pairs))
        assert area.low <= area.mean <= area.high


def test_where_all_are_right_there_is_nothing_to_tell_apart(sets: Sets, found: Diagnosis) -> None:
    assert all(one.correct for one in sets.teacher.responses)
    assert sets.teacher.told_apart() is None and "auroc_teacher" not in found.scalars


def test_scalars_are_means_over_tokens_and_over_problems(sets: Sets, found: Diagnosis) -> None:
    for suffix, given in (("", sets.student), ("_teacher", sets.teacher)):
        for name in ("teacher_entropy", "student_entropy", "teacher_logprob", "log_ratio"):
            assert found.scalars[f"{name}{suffix}"].mean == pytest.approx(mean_of(given, name))
        right = np.mean([one.correct for one in given.responses])
        assert found.scalars[f"accuracy{suffix}"].mean == pytest.approx(right)
        lengths = [len(one.rollout) for one in given.responses]
        assert found.scalars[f"length{suffix}"].mean == pytest.approx(np.mean(lengths))
        assert len(given.tokens.position) == sum(lengths)
    assert found.scalars["replaced"].mean == pytest.approx(mean_of(sets.own, "replaced"))


def test_the_run_before_is_scored_apart(found: Diagnosis) -> None:
    # The same model stands on both sides here.
    for name in ("accuracy", "teacher_entropy", "reverse_kl", "outlier_share", "length"):
        assert found.scalars[f"{name}_before"] == found.scalars[name]


def test_the_outlier_share_is_how_often_the_gate_turns_the_students_tokens_down(
    small: Case,
) -> None:
    # Its own tokens: 1 − min(1, q/p) at each, whose mean is TV(p, q) over the visited prefixes.
    many = Case(small.config, small.pair, case(60).questions).asked(Student(), samples=4)
    ratio = many.tokens.columns["log_ratio"]
    drawn = 1 - np.exp(np.minimum(ratio, 0.0))
    exact = many.tokens.columns["watched/outlier"]
    apart = drawn - exact
    assert exact.mean() > 0.05
    assert abs(apart.mean()) < 4 * apart.std() / np.sqrt(len(apart))


def test_replaced_tokens_by_how_many_ids_the_teacher_accepts(sets: Sets, found: Diagnosis) -> None:
    points = found.curves["replaced_by_top_k"].points
    # Of 15 ids: 15 and more of them are all there are.
    assert [point[0] for point in points] == [1, 2, 4, 8]
    for k, mean, _, _ in points:
        assert mean == pytest.approx(mean_of(sets.student, f"{OUTSIDE}{int(k)}"))
    means = [point[1] for point in points]
    assert means == sorted(means, reverse=True) and means[0] > 0.1


def test_curves_of_the_run_are_its_metrics(found: Diagnosis) -> None:
    assert [p[:2] for p in found.curves["train/grad_norm"].points] == [(1.0, 2.0), (2.0, 1.5)]
    assert [p[:2] for p in found.curves["rollout/teacher_entropy"].points] == [(1.0, 0.4)]
    assert "train/outlier_share" not in found.curves and "eval/pass@1" not in found.curves


def test_samples_lie_side_by_side_with_a_number_per_token(
    small: Case, sets: Sets, found: Diagnosis
) -> None:
    who = ("student before", "student after", "teacher")
    assert [s["who"] for s in found.samples] == [w for w in who for _ in small.questions[:SHOWN]]
    assert [s["prompt"] for s in found.samples[:8]] == [q.prompt.text for q in small.questions]
    for sample, one in zip(found.samples[16:], sets.teacher.responses[::3], strict=True):
        assert "".join(sample["tokens"][:-1]) == sample["text"]
        p, q = plain_logp(small.pair, one.question, one.rollout.ids)
        assert sample["value"] == "kl" and sample["correct"] is one.correct
        expected = (p.exp() * (p - q)).sum(-1)
        assert sample["values"] == pytest.approx(expected.tolist(), abs=2e-4, rel=2e-3)


def test_histograms_hold_every_token_of_the_runs_own_law(sets: Sets, found: Diagnosis) -> None:
    assert list(found.histograms) == ["kl_spent"], "SKD has no exponent"
    assert sum(found.histograms["kl_spent"]["counts"]) == len(sets.own.tokens.position)


def test_what_blends_nothing_is_looked_at_through_the_plotted_blend() -> None:
    first = Clock(0, 10)
    plotted = FixedBudgetBlend(budget=PLOTTED)
    assert watched_law(Student(), first) == plotted
    assert watched_law(TeacherPrefix(), first) == plotted
    assert watched_law(OffPolicyMix(), first) == plotted
    blend = TrustRegionBlend(budget=0.1, warmup_steps=5)
    assert watched_law(blend, first) is blend
    assert watched_law(blend, Clock(6, 10)) == plotted
