"""Jobs on several processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.studies import runner_jobs

from tandem.studies.runner import Begun, Ended, Job, Told, run_jobs


def _run(jobs: Sequence[Job], *, processes: int) -> list[Any]:
    heard: list[Any] = []
    slots = [{"TANDEM_SLOT": str(i)} for i in range(processes)]
    run_jobs(jobs, environments=slots, hear=heard.append)
    return heard


def test_every_job_is_done_once_and_told_of_in_order() -> None:
    jobs = [Job(str(n), runner_jobs.double, n) for n in range(5)]
    heard = _run(jobs, processes=1)
    kinds = [type(event) for event in heard]
    assert kinds == [Begun, Told, Ended] * 5
    assert [event.job.name for event in heard[::3]] == list("01234")
    assert [event.what for event in heard[1::3]] == list(range(5))
    results = [event.result for event in heard[2::3]]
    assert [result["twice"] for result in results] == [0, 2, 4, 6, 8]
    # One process does them all, and what it imported stays.
    assert len({result["process"] for result in results}) == 1
    assert {result["slot"] for result in results} == {"0"}


def test_two_processes_work_at_once_each_with_its_own_environment(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in "ab"]
    _run(
        [Job("a", runner_jobs.meet, tuple(files)), Job("b", runner_jobs.meet, tuple(files[::-1]))],
        processes=2,
    )
    jobs = [Job(str(n), runner_jobs.double, n) for n in range(6)]
    results = [e.result for e in _run(jobs, processes=2) if isinstance(e, Ended)]
    assert sorted(result["twice"] for result in results) == [0, 2, 4, 6, 8, 10]
    assert len({(r["slot"], r["process"]) for r in results}) == len({r["slot"] for r in results})


def test_no_jobs_need_no_process() -> None:
    assert _run([], processes=2) == []


def test_a_refusal_keeps_its_sentence_and_names_its_job() -> None:
    jobs = [Job("first", runner_jobs.refuse, "that is wrong"), Job("later", runner_jobs.double, 1)]
    with pytest.raises(ValueError, match=r"^first: that is wrong$"):
        _run(jobs, processes=1)


def test_a_failure_comes_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)divide failed:.*return 1 / what.*ZeroDivisionE"):
        _run([Job("divide", runner_jobs.fail, 0)], processes=1)


def test_a_process_that_dies_is_told_of_with_its_code() -> None:
    with pytest.raises(RuntimeError, match="the process that worked on x ended with code 7"):
        _run([Job("x", runner_jobs.die, 7)], processes=1)


def test_a_process_that_dies_before_its_job_begins_is_told_of_too(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    jobs = [
        Job("deadly", runner_jobs.double, runner_jobs.Deadly()),
        Job("other", runner_jobs.wait_and_save, str(saved)),
    ]
    with pytest.raises(RuntimeError, match="worked on deadly ended with code 3"):
        _run(jobs, processes=2)


def test_ctrl_c_lets_a_job_under_way_save(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    heard: list[Any] = []

    def hear(event: Any) -> None:
        heard.append(event)
        if isinstance(event, Told):
            raise KeyboardInterrupt  # as Ctrl-C would, while a job is under way

    jobs = [Job("long", runner_jobs.wait_and_save, str(saved))]
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, environments=[{}], hear=hear)
    assert saved.read_text() == "saved"
    assert not any(isinstance(event, Ended) for event in heard)


def test_a_failure_lets_the_others_save(tmp_path: Path) -> None:
    saved, begun = tmp_path / "saved", tmp_path / "begun"
    jobs = [
        Job("long", runner_jobs.wait_and_save, str(saved)),
        Job("refused", runner_jobs.refuse_after, (str(begun), "no")),
    ]

    def hear(event: Any) -> None:
        if isinstance(event, Told):
            begun.write_text("")

    with pytest.raises(ValueError, match="refused: no"):
        run_jobs(jobs, environments=[{}, {}], hear=hear)
    assert saved.read_text() == "saved"
