"""The step-0 probe: cuts, continuations, and what their success says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pair_cases import CLOCK, Case, case, unwatched

from tandem.behaviours import FixedBudgetBlend, Student, Teacher, TrustRegionBlend
from tandem.studies.diagnostics_pair import Response, questions_of, respond
from tandem.studies.probe import Probed, ProbeResult, as_json, probe
from tandem.studies.probe_cuts import Cut, continued, cut_of, finish
from tandem.types import SignalSpec

STUDENT = Probed("student", Student(), CLOCK)
TEACHER = Probed("teacher", Teacher(), CLOCK)
BLEND = Probed("blend", TrustRegionBlend(budget=0.1, warmup_steps=5), CLOCK)


@pytest.fixture(scope="module")
def small() -> Case:
    return case(6)


def probed(where: Case, *behaviours: Probed, lengths: tuple[int, ...], samples: int) -> ProbeResult:
    return probe(
        where.pair,
        where.config.task,
        where.questions,
        [STUDENT, *behaviours],
        lengths=lengths,
        samples=samples,
        watch=unwatched,
    )


def responses_of(where: Case, one: Probed, *, samples: int) -> list[Response]:
    return respond(
        where.pair,
        where.config.task,
        where.questions,
        behaviour=one.behaviour,
        clock=one.clock,
        samples=samples,
        record=SignalSpec(),
        on_progress=unwatched("responses"),
    )


def shares(scores: dict[str, float]) -> np.ndarray:
    return np.array(list(scores.values()))


def test_a_continuation_begins_with_its_prefix_and_ends_by_itself_or_at_the_limit(
    small: Case,
) -> None:
    cuts = [
        cut
        for one in responses_of(small, BLEND, samples=2)
        for length in (0, 1, 3)
        for who in ("teacher", "student")
        if (cut := cut_of(one, length, who)) is not None
    ]
    assert {cut.who for cut in cuts} == {"teacher", "student"}
    distinct = list({cut.id: cut for cut in cuts}.values())
    for cut, rollout in finish(small.pair, distinct, on_progress=unwatched("continuations")):
        assert tuple(rollout.ids[: len(cut.prefix)].tolist()) == cut.prefix
        assert len(rollout) > len(cut.prefix) and rollout.given == len(cut.prefix)
        end = rollout.ids[-1] == small.pair.alignment.end_id
        assert bool(end) == (rollout.ended == "eos") and (end or len(rollout) == small.pair.limit)


def test_a_cut_at_the_longest_response_is_the_behaviour_itself(small: Case) -> None:
    found = probed(small, TEACHER, BLEND, lengths=(2, small.pair.limit), samples=2)
    for row in found.rows:
        if row.length == small.pair.limit:
            assert row.success == found.own[row.behaviour] and row.finished == 1.0
    for label, one in (("student", STUDENT), ("teacher", TEACHER), ("blend", BLEND)):
        right = [r.correct for r in responses_of(small, one, samples=2)]
        assert found.own[label].mean == pytest.approx(np.mean(right))


def test_where_nothing_is_cut_nothing_is_continued(small: Case) -> None:
    found = probed(small, BLEND, lengths=(small.pair.limit,), samples=1)
    assert [row.success for row in found.rows] == [
        found.own[label] for label in ("student", "student", "blend", "blend")
    ]


def test_a_response_that_ended_before_the_cut_counts_as_it_is(small: Case) -> None:
    given = responses_of(small, STUDENT, samples=2)
    lengths = sorted({len(one.rollout) for one in given})
    assert len(lengths) > 1, "all of one length: nothing to tell apart"
    middle = lengths[0]
    assert [cut_of(one, middle, "teacher") is None for one in given] == [
        len(one.rollout) == middle for one in given
    ]
    found = probed(small, lengths=(middle,), samples=2)
    assert found.rows[0].finished == np.mean([len(one.rollout) <= middle for one in given])


def test_the_share_right_is_that_of_the_parts(small: Case) -> None:
    given = responses_of(small, BLEND, samples=2)
    found = probed(small, BLEND, lengths=(4,), samples=2)
    for who in ("teacher", "student"):
        cuts = [cut_of(one, 4, who) for one in given]
        right = continued(
            small.pair,
            small.config.task,
            [cut for cut in cuts if cut is not None],
            on_progress=unwatched("continuations"),
        )
        marks = [
            one.correct if cut is None else right[cut.id]
            for one, cut in zip(given, cuts, strict=True)
        ]
        (row,) = [r for r in found.rows if (r.behaviour, r.continued_by) == ("blend", who)]
        assert row.success.mean == pytest.approx(np.mean(marks))
        assert row.difference is not None
        base = shares(found.scores["student", 4, who]).mean()
        assert row.difference.mean == pytest.approx(np.mean(marks) - base)


def test_neither_other_lengths_nor_other_behaviours_change_a_row(small: Case) -> None:
    alone = probed(small, BLEND, lengths=(2,), samples=2)
    among = probed(small, TEACHER, BLEND, lengths=(0, 2, 5), samples=2)
    for key, scores in alone.scores.items():
        assert among.scores[key] == scores
    more = responses_of(small, STUDENT, samples=2)
    first = [one.rollout.ids.tolist() for one in more if one.sample == 0][:3]
    few = Case(small.config, small.pair, small.questions[:3])
    assert [r.rollout.ids.tolist() for r in responses_of(few, STUDENT, samples=1)] == first


def test_nothing_written_is_the_same_for_every_behaviour(small: Case) -> None:
    found = probed(small, TEACHER, BLEND, lengths=(0,), samples=2)
    for who in ("teacher", "student"):
        assert found.scores["teacher", 0, who] == found.scores["student", 0, who]
        assert found.scores["blend", 0, who] == found.scores["student", 0, who]


def test_a_blend_with_nothing_to_spend_is_the_student(small: Case) -> None:
    nothing = Probed("nothing", FixedBudgetBlend(budget=0.0), CLOCK)
    found = probed(small, nothing, lengths=(1, 3), samples=2)
    for length in (1, 3):
        for who in ("teacher", "student"):
            assert found.scores["nothing", length, who] == found.scores["student", length, who]


def test_cuts_are_one_exactly_where_problem_sample_prefix_and_model_are(small: Case) -> None:
    one = responses_of(small, STUDENT, samples=1)[0]
    question, other = small.questions[0], small.questions[1]

    def identity(**changes: object) -> int:
        response = Response(**{**vars_of(one), **changes})  # pyright: ignore[reportArgumentType]
        return found(cut_of(response, 2, "student")).id

    base = identity()
    assert base == identity()
    assert base != identity(question=other) and base != identity(sample=1)
    assert base != found(cut_of(one, 2, "teacher")).id != found(cut_of(one, 1, "student")).id
    assert found(cut_of(one, 2, "student")).question is question


def vars_of(one: Response) -> dict[str, object]:
    return {
        name: getattr(one, name) for name in ("question", "sample", "rollout", "text", "correct")
    }


def found(cut: Cut | None) -> Cut:
    assert cut is not None
    return cut


def test_the_students_prefix_continued_by_the_student_is_the_student_in_law() -> None:
    # Fresh draws after the cut: the same law as the uncut response, and not the same tokens.
    many = case(100)
    result = probed(many, lengths=(1, 5), samples=3)
    own = responses_of(many, STUDENT, samples=3)
    whole = np.array([one.correct for one in own], dtype=float).reshape(-1, 3).mean(1)
    assert 0.02 < whole.mean() < 0.98, "an accuracy that leaves room on both sides"
    for length in (1, 5):
        apart = shares(result.scores["student", length, "student"]) - whole
        assert np.any(apart != 0), "the same draws again"
        assert abs(apart.mean() / (apart.std(ddof=1) / math.sqrt(len(apart)))) < 4
        taught = shares(result.scores["student", length, "teacher"]) - whole
        assert taught.mean() / (taught.std(ddof=1) / math.sqrt(len(taught))) > 4


def test_the_teacher_goes_on_with_its_own_prefix_as_well_as_it_began() -> None:
    result = probed(case(40), TEACHER, lengths=(5,), samples=1)
    own, on = result.own["teacher"], shares(result.scores["teacher", 5, "teacher"]).mean()
    alone = shares(result.scores["teacher", 5, "student"]).mean()
    assert own.mean > 0.9 and abs(on - own.mean) < 0.1 and alone < own.mean


@pytest.mark.parametrize("lengths", [(), (-1,), (17,), (2, 2)])
def test_lengths_that_cut_nothing_are_refused(small: Case, lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"from 0 to rollout\.max_new_tokens \(16\): name such"):
        probed(small, lengths=lengths, samples=1)


def test_problems_that_do_not_fit_are_left_out_and_two_are_needed() -> None:
    config = case(4).config
    with pytest.raises(ValueError, match=r"^0 of 4 problems fit in rollout\.max_prompt_tokens \(3"):
        case(4, "rollout.max_prompt_tokens=3")
    few = case(4)
    with pytest.raises(ValueError, match=r"^1 of 1 problems fit .* intervals need 2"):
        questions_of(few.pair, config.task.prompts("test")[:1])


def test_several_teachers_in_turns_continue_the_prompts_of_their_domains() -> None:
    teachers = "{arithmetic: {path: 'embedded:teacher'}, other: {path: 'embedded:student'}}"
    two = case(4, "teacher=null", f"teachers={teachers}", "residency=one")
    result = probed(two, TEACHER, lengths=(0, 1), samples=1)
    assert {question.teacher for question in two.questions} == {"arithmetic"}
    single = probed(case(4), TEACHER, lengths=(0, 1), samples=1)
    assert result.scores == single.scores


def test_the_file_says_what_the_result_says(small: Case) -> None:
    result = probed(small, BLEND, lengths=(2, 4), samples=2)
    data = as_json(result, model="m", teacher="t", task="arithmetic", seed=3)
    assert {k: data[k] for k in ("schema", "model", "teacher", "task", "seed")} == {
        "schema": 1, "model": "m", "teacher": "t", "task": "arithmetic", "seed": 3,
    }  # fmt: skip
    assert data["lengths"] == [2, 4] and data["behaviours"] == ["student", "blend"]
    assert (data["problems"], data["samples"]) == (6, 2)
    assert len(data["rows"]) == 2 * 2 * 2 and len(data["differences"]) == 2 * 2
    for row, read in zip(result.rows, data["rows"], strict=True):
        assert list(read) == ["behaviour", "length", "continued_by", "mean", "low", "high",
                              "finished"]  # fmt: skip
        assert read["mean"] == row.success.mean and read["low"] <= read["mean"] <= read["high"]
        by_problem = result.scores[row.behaviour, row.length, row.continued_by]
        assert read["mean"] == pytest.approx(shares(by_problem).mean())
