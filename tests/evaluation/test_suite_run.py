"""A suite's run: stopped and continued, extended, refused; its result by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tandem.evaluation.generations import GENERATIONS, opened
from tandem.evaluation.intervals import wilson
from tandem.evaluation.suite_result import SuiteResult, sizes, voters
from tandem.evaluation.suite_run import RESULT, Asking, request_id, run_suite
from tandem.evaluation.suites import suite_named
from tandem.evaluation.suites.base import Suite
from tandem.tasks.arithmetic import worked
from tandem.types import Request, Rollout


class Stopped(Exception):
    """What a kill is to a test."""


class Oracle:
    """Answers by the request's id alone, as the engine's draws do; counts what it was asked.

    breaks_after: raise when so many answers have been made.
    """

    def __init__(self, *, breaks_after: int | None = None) -> None:
        self.asked: list[int] = []
        self.breaks_after = breaks_after

    def generate(self, requests: list[Request], done: Callable[[int], None]) -> list[Rollout]:
        rollouts: list[Rollout] = []
        for request in requests:
            if self.breaks_after is not None and len(self.asked) >= self.breaks_after:
                raise Stopped
            self.asked.append(request.id)
            rollouts.append(rollout_of(request))
            done(len(rollouts))
        return rollouts

    def asking(self, **changes: Any) -> Asking:
        identity = {"model": "abc", "seed": 0} | changes.pop("identity", {})
        return Asking(
            encode=lambda prompt: tuple(map(ord, prompt.text)),
            decode=decode,
            generate=self.generate,
            identity=identity,
            **({"batch": 3, "max_prompt_tokens": 100} | changes),
        )


def rollout_of(request: Request) -> Rollout:
    length = 2 + request.id % 5
    zeros = torch.zeros(length)
    return Rollout(
        request=request,
        ids=torch.zeros(length, dtype=torch.int64),
        behaviour_logp=zeros,
        student_logp=zeros,
        teacher_logp=None,
        author=torch.zeros(length, dtype=torch.int64),
        policy_version=0,
        ended="length" if request.id % 7 == 0 else "eos",
    )


def decode(rollout: Rollout) -> str:
    """Right in a third of the cases, without an answer in another; the rest are wrong."""
    text = "".join(map(chr, rollout.request.student_ids))
    kind = (rollout.request.id >> 5) % 3
    return worked(text) if kind == 0 else "=+\u2028" if kind == 1 else "7"


def suite(samples: int = 2, problems: int = 5, **fields: Any) -> Suite:
    return suite_named("arithmetic", {"samples": samples, "problems_made": problems, **fields})


def run(folder: Path, asked: Suite, asking: Asking, **options: Any) -> SuiteResult:
    silent: Callable[[int, int], None] = lambda done, total: None  # noqa: E731
    watched: dict[str, Any] = dict.fromkeys(("on_answer", "on_grade", "on_count"), silent)
    return run_suite(asked, asking, folder=folder, **(watched | options))


def lines(folder: Path) -> list[str]:
    return (folder / GENERATIONS).read_text("utf-8").split("\n")[:-1]


def test_draws_of_an_answer_depend_on_its_problem_and_number_alone() -> None:
    ids = [request_id("math500", f"p{i}", k) for i in range(300) for k in range(64)]
    assert len(set(ids)) == len(ids)
    assert all(2**62 <= i < 2**63 for i in ids), "far from a run's, and within int64"
    assert request_id("math500", "p0", 5) - request_id("math500", "p0", 0) == 5
    assert request_id("aime24", "p0", 0) != request_id("math500", "p0", 0)


@pytest.mark.parametrize("after", [0, 1, 4, 7, 9])
def test_a_run_that_was_killed_goes_on_to_the_same_result(after: int, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", suite(), Oracle().asking())
    broken = Oracle(breaks_after=after)
    with pytest.raises(Stopped):
        run(tmp_path / "broken", suite(), broken.asking())
    # Batches of 3, then 6: what was finished before the kill is kept.
    kept = 0 if after < 3 else 3 if after < 9 else 9
    continued = Oracle()
    assert run(tmp_path / "broken", suite(), continued.asking()) == whole
    assert len(continued.asked) == 10 - kept
    assert sorted(continued.asked + broken.asked[:kept]) == sorted(
        set(broken.asked[:kept] + continued.asked)
    )
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")


def test_a_finished_run_is_not_answered_again(tmp_path: Path) -> None:
    first = run(tmp_path, suite(), Oracle().asking())
    again = Oracle()
    assert run(tmp_path, suite(), again.asking()) == first
    assert again.asked == []


def test_an_answer_that_was_cut_while_written_is_made_again(tmp_path: Path) -> None:
    whole = run(tmp_path, suite(), Oracle().asking())
    written = lines(tmp_path)
    path = tmp_path / GENERATIONS
    path.write_bytes(path.read_bytes()[:-7])
    again = Oracle()
    assert run(tmp_path, suite(), again.asking()) == whole
    assert len(again.asked) == 1 and lines(tmp_path) == written


def test_more_samples_extend_a_result_and_fewer_are_its_beginning(tmp_path: Path) -> None:
    two = run(tmp_path / "a", suite(2), Oracle().asking())
    before = lines(tmp_path / "a")
    more = Oracle()
    five = run(tmp_path / "a", suite(5), more.asking())
    assert len(more.asked) == 5 * 3, "only what was missing"
    assert lines(tmp_path / "a")[: len(before)] == before
    assert five == run(tmp_path / "b", suite(5), Oracle().asking()), "as if asked for at once"
    assert run(tmp_path / "a", suite(2), Oracle().asking()) == two, "the first two are the same"


def test_asking_fewer_problems_asks_the_first_with_the_same_draws(tmp_path: Path) -> None:
    few = Oracle()
    result = run(tmp_path / "few", suite(), few.asking(), problems=2)
    assert result.left_out == 3 and len(few.asked) == 4
    every = Oracle()
    run(tmp_path / "all", suite(), every.asking())
    assert set(few.asked) < set(every.asked)
    rest = Oracle()
    run(tmp_path / "few", suite(), rest.asking())
    assert len(rest.asked) == 6


def test_the_size_of_batches_changes_no_answer(tmp_path: Path) -> None:
    small = run(tmp_path / "a", suite(4), Oracle().asking(batch=1))
    assert small == run(tmp_path / "b", suite(4), Oracle().asking(batch=64))
    assert sorted(lines(tmp_path / "a")) == sorted(lines(tmp_path / "b"))


def test_first_samples_come_first(tmp_path: Path) -> None:
    run(tmp_path, suite(3), Oracle().asking())
    assert [json.loads(line)["sample"] for line in lines(tmp_path)] == [0] * 5 + [1] * 5 + [2] * 5


@pytest.mark.parametrize(
    ("asked", "identity", "sentence"),
    [
        (suite(temperature=0.5), {}, "holds answers of another temperature (1.0; now 0.5); give"),
        (suite(max_new_tokens=9), {}, "holds answers of another max_new_tokens (64; now 9); give"),
        (suite(problems=6), {}, "holds answers of another problems ("),
        (suite(), {"model": "xyz"}, 'holds answers of another model ("abc"; now "xyz"); give'),
        (suite(), {"seed": 1}, "holds answers of another seed (0; now 1); give another --output"),
        (suite(), {"system": "hi"}, 'holds answers of another system (null; now "hi"); give'),
    ],
)
def test_another_model_or_other_settings_are_refused(
    asked: Suite, identity: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    run(tmp_path, suite(), Oracle().asking())
    before = (tmp_path / GENERATIONS).read_bytes()
    other = Oracle()
    with pytest.raises(ValueError) as caught:
        run(tmp_path, asked, other.asking(identity=identity))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert other.asked == [] and (tmp_path / GENERATIONS).read_bytes() == before


def test_a_run_that_left_no_answer_does_not_stand_in_the_way_of_another(tmp_path: Path) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise ValueError("can never fit")

    with pytest.raises(ValueError, match="can never fit"):
        run(tmp_path, suite(), replace(Oracle().asking(), generate=refused))
    other = Oracle()
    run(tmp_path, suite(max_new_tokens=9), other.asking())
    assert other.asked
    with pytest.raises(ValueError, match=r"another max_new_tokens \(9; now 64\)"):
        run(tmp_path, suite(), Oracle().asking())
    # Half a line is no answer.
    (tmp_path / GENERATIONS).write_bytes(b'{"problem": "x"')
    run(tmp_path, suite(), Oracle().asking())


def test_grading_settings_are_not_part_of_an_answer(tmp_path: Path) -> None:
    run(tmp_path, suite(), Oracle().asking())
    again = Oracle()
    run(tmp_path, suite(), again.asking(batch=50, max_prompt_tokens=50))
    assert again.asked == []


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path, {}), pytest.raises(ValueError, match="is in use by another evaluation"):
        run(tmp_path, suite(), Oracle().asking())


def test_what_cannot_be_read_is_refused_by_its_line(tmp_path: Path) -> None:
    run(tmp_path, suite(), Oracle().asking())
    written = lines(tmp_path)
    (tmp_path / GENERATIONS).write_text("\n".join([written[0], '{"problem": 1}', ""]))
    with pytest.raises(ValueError, match=r"^line 2 of .*generations.jsonl is no answer; delete"):
        run(tmp_path, suite(), Oracle().asking())
    (tmp_path / "identity.json").unlink()
    with pytest.raises(ValueError, match=r"holds answers but no identity.json, so it is not known"):
        run(tmp_path, suite(), Oracle().asking())
    with pytest.raises(ValueError, match=r"cannot be used \(.*\); give another --output$"):
        run(tmp_path / GENERATIONS / "below", suite(), Oracle().asking())


def test_problems_that_share_an_id_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "gsm8k_test"
    folder.mkdir()
    rows = [{"id": name, "problem": "1+1?", "answer": "2"} for name in ("a", "b", "a")]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = suite_named("gsm8k", {"data_root": tmp_path})
    with pytest.raises(ValueError, match="suite gsm8k gives the id 'a' to several problems, and"):
        run(tmp_path / "out", asked, Oracle().asking())


def test_prompts_over_the_limit_are_dropped_and_counted(tmp_path: Path) -> None:
    asked = suite(1, 40, operands=2, digits=2)
    oracle = Oracle()
    with pytest.raises(ValueError, match="none of 40 prompts fits in max_prompt_tokens 5; raise"):
        run(tmp_path, asked, oracle.asking(max_prompt_tokens=5))
    assert run(tmp_path, asked, oracle.asking(max_prompt_tokens=6)).at_1.dropped == 0
    with pytest.raises(ValueError, match="65536 samples per problem; ask for fewer than 65536"):
        run(tmp_path, suite(2**16), oracle.asking())


def test_the_result_is_what_the_grades_say(tmp_path: Path) -> None:
    asked = suite(1, 40)
    result = run(tmp_path, asked, Oracle().asking())
    ids = {p.id: request_id("arithmetic", p.id, 0) for p in asked.problems}
    kinds = [(i >> 5) % 3 for i in ids.values()]
    right = kinds.count(0) / 40
    assert result.at_1.pass_at_1 == wilson(right, 40)
    assert result.at_1.scores == {p: float((i >> 5) % 3 == 0) for p, i in ids.items()}
    assert result.at_1.no_answer == pytest.approx(kinds.count(1) / 40)
    assert result.at_1.truncated == pytest.approx(sum(i % 7 == 0 for i in ids.values()) / 40)
    assert result.at_1.mean_length == pytest.approx(sum(2 + i % 5 for i in ids.values()) / 40)
    assert result.majority[1].accuracy.mean == pytest.approx(right)
    written = json.loads((tmp_path / RESULT).read_bytes())
    assert written["pass@1"]["mean"] == pytest.approx(right)
    assert written["scores"] == result.at_1.scores and written["of"]["model"] == "abc"


def test_several_samples_give_pass_and_majority_at_powers_of_two(tmp_path: Path) -> None:
    assert sizes(1) == [1] and sizes(8) == [1, 2, 4, 8] and sizes(6) == [1, 2, 4, 6]
    result = run(tmp_path, suite(6, 20), Oracle().asking())
    assert list(result.passed) == [1, 2, 4, 6] and list(result.majority) == [4, 6]
    assert voters(1) == [1] and voters(64) == [4, 16, 64] and voters(512) == [4, 16, 64]
    means = [result.passed[k].mean for k in result.passed]
    assert means == sorted(means) and means[0] == pytest.approx(result.at_1.pass_at_1.mean)
    any_right = [score > 0 for score in result.at_1.scores.values()]
    assert means[-1] == pytest.approx(sum(any_right) / 20)


def test_progress_counts_kept_answers_and_ends_at_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, suite(4), Oracle(breaks_after=10).asking())
    answers: list[tuple[int, int]] = []
    graded: list[tuple[int, int]] = []
    counted: list[tuple[int, int]] = []
    run(
        tmp_path,
        suite(4),
        Oracle().asking(),
        on_answer=lambda *told: answers.append(told),
        on_grade=lambda *told: graded.append(told),
        on_count=lambda *told: counted.append(told),
    )
    assert answers[0] == (9, 20) and answers[-1] == (20, 20) and answers == sorted(answers)
    assert graded[-1] == (20, 20) and counted == [(0, 1), (1, 1)]


def test_nothing_is_generated_where_nothing_could_be_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = suite()

    def missing(self: Suite) -> None:
        raise ValueError("install the grader")

    monkeypatch.setattr(type(asked), "ready", missing)
    oracle = Oracle()
    with pytest.raises(ValueError, match="install the grader"):
        run(tmp_path / "answers", asked, oracle.asking())
    assert not oracle.asked and not (tmp_path / "answers").exists()
