"""Completions kept in a folder: sampled once, by whichever process asks first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.behaviours import OffPolicyMix, TeacherPrefix
from tandem.tasks.base import Prompt
from tandem.training.completions import Completions
from tandem.types import Clock, Request

CLOCK = Clock(0, 10)
Ids = tuple[int, ...]


class Sampler:
    """Answers that are a function of the request's id, as the engine's are; counts them."""

    def __init__(self) -> None:
        self.sampled = 0
        self.limits: set[int] = set()

    def __call__(self, requests: list[Request], longest: int) -> list[Ids]:
        assert len({r.id for r in requests}) == len(requests), "ids are the engine's counters"
        self.sampled += len(requests)
        self.limits.add(longest)
        return [tuple((r.id >> k) % 50 for k in range(1 + r.id % longest)) for r in requests]


def asked(*prompts: int, first: int = 0) -> list[Request]:
    """Two samples of each prompt."""
    return [
        Request(id=2 * (first + i) + s, student_ids=(prompt,), teacher_ids=(7, prompt))
        for i, prompt in enumerate(prompts)
        for s in range(2)
    ]


def completions(
    sampler: Sampler,
    *,
    rank: int = 0,
    identity: str = "teacher-a",
    limit: int = 8,
    seed: int = 0,
) -> Completions:
    def nobody(request: Request) -> Prompt:
        raise AssertionError(f"the prompt of request {request.id} was asked for")

    return Completions(
        encode=lambda prompt: None,
        prompt_of=nobody,
        sample=sampler,
        limit=limit,
        samples_per_prompt=2,
        seed=seed,
        identity=identity,
        rank=rank,
    )


def given(source: Completions, requests: list[Request], folder: Path) -> list[Ids]:
    whole = OffPolicyMix(on_policy_fraction=0.0, completions="cache", cache=str(folder))
    return [r.forced_ids for r in source(requests, behaviour=whole, clock=CLOCK)]


def test_a_completion_is_sampled_once_for_all_epochs_and_runs(tmp_path: Path) -> None:
    sampler, folder = Sampler(), tmp_path / "deep" / "kept"
    source = completions(sampler)
    first = given(source, asked(1, 2), folder)
    assert sampler.sampled == 4 and sampler.limits == {8}
    assert len(set(first)) == 4, "two samples of one prompt differ"
    # A later epoch: the prompts in another order, so other request ids.
    assert given(source, asked(2, 1, first=10), folder) == first[2:] + first[:2]
    # Another run, of another seed.
    assert given(completions(sampler, seed=5), asked(1, 2), folder) == first
    assert sampler.sampled == 4
    given(source, asked(3), folder)
    assert sampler.sampled == 6


def test_what_is_kept_does_not_depend_on_who_fills_it(tmp_path: Path) -> None:
    one = given(completions(Sampler()), asked(1, 2, 3), tmp_path / "a")
    source = completions(Sampler(), rank=3, seed=9)
    given(source, asked(3, first=7), tmp_path / "b")
    assert given(source, asked(1, 2, 3), tmp_path / "b") == one


def test_a_prompt_that_is_asked_twice_in_a_step_is_sampled_once(tmp_path: Path) -> None:
    sampler = Sampler()
    found = given(completions(sampler), asked(4, 4), tmp_path)
    assert sampler.sampled == 2 and found[:2] == found[2:]


def test_another_teacher_of_the_same_prompt_has_answers_of_its_own(tmp_path: Path) -> None:
    sampler = Sampler()
    source = completions(sampler)
    one = given(source, asked(1), tmp_path)
    other = given(source, [replace(r, teacher="coder") for r in asked(1)], tmp_path)
    assert sampler.sampled == 4 and one != other


def test_a_short_prefix_is_cut_from_an_answer_that_is_kept_whole(tmp_path: Path) -> None:
    sampler = Sampler()
    source = completions(sampler)
    prefix = TeacherPrefix(prefix="max", completions="cache", cache=str(tmp_path))
    # ½ · 8 · (1 + cos(π/2)) = 4 tokens.
    half = source(asked(1, 2, 3), behaviour=prefix, clock=Clock(5, 10))
    assert sampler.limits == {8}
    whole = given(source, asked(1, 2, 3), tmp_path)
    assert [r.forced_ids for r in half] == [ids[:4] for ids in whole]
    assert max(map(len, whole)) > 4 and sampler.sampled == 6


def test_ranks_write_files_of_their_own_and_read_each_others(tmp_path: Path) -> None:
    samplers = Sampler(), Sampler()
    ranks = [completions(sampler, rank=r) for r, sampler in enumerate(samplers)]
    left = given(ranks[0], asked(1), tmp_path)
    right = given(ranks[1], asked(2), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"rank0-0.jsonl", "rank1-0.jsonl"}
    # The next epoch deals the prompts the other way round.
    assert given(ranks[0], asked(2), tmp_path) == right
    assert given(ranks[1], asked(1), tmp_path) == left
    assert [sampler.sampled for sampler in samplers] == [2, 2]


def test_two_runs_that_fill_one_folder_do_not_write_into_each_others_files(tmp_path: Path) -> None:
    one, two = completions(Sampler()), completions(Sampler())
    found = {p: given(run, asked(p), tmp_path) for p, run in enumerate((one, two, one, two))}
    assert len(list(tmp_path.iterdir())) == 2
    reader = Sampler()
    assert {p: given(completions(reader), asked(p), tmp_path) for p in range(4)} == found
    assert reader.sampled == 0


@pytest.mark.parametrize("kept", [0, 1, 5], ids=lambda n: f"{n} bytes of the line")
def test_a_line_that_was_cut_short_is_no_line_and_is_sampled_again(
    tmp_path: Path, kept: int
) -> None:
    before = given(completions(Sampler()), asked(1, 2), tmp_path)
    (file,) = tmp_path.iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    sampler = Sampler()
    assert given(completions(sampler), asked(1, 2), tmp_path) == before
    assert sampler.sampled == 1
    # The next run finds all of it.
    assert given(completions(sampler), asked(1, 2), tmp_path) == before
    assert sampler.sampled == 1


def test_a_file_cut_short_in_its_first_line_holds_nothing(tmp_path: Path) -> None:
    before = given(completions(Sampler()), asked(1), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:6])
    sampler = Sampler()
    assert given(completions(sampler), asked(1), tmp_path) == before
    assert sampler.sampled == 2


def refusal(source: Completions, folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        given(source, asked(1), folder)
    return str(caught.value)


def test_a_cache_of_something_else_is_refused(tmp_path: Path) -> None:
    given(completions(Sampler()), asked(1), tmp_path)
    assert refusal(completions(Sampler(), identity="teacher-b"), tmp_path) == (
        f"the completion cache {tmp_path} holds answers of teacher-a, not of teacher-b; name "
        "another folder"
    )
    assert refusal(completions(Sampler(), limit=16), tmp_path) == (
        f"the completion cache {tmp_path} holds answers of at most 8 tokens, but "
        "rollout.max_new_tokens is 16; make them equal or name another folder"
    )


@pytest.mark.parametrize("line", ['{"problem": "1+1?"}', "not JSON", "[1, 2]"])
def test_a_folder_of_other_files_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "train.jsonl").write_text(f"{line}\n")
    assert refusal(completions(Sampler()), tmp_path) == (
        f"{tmp_path / 'train.jsonl'} is no file of completions: its first line does not say whose "
        "they are; name another folder"
    )


@pytest.mark.parametrize("line", ['{"prompt": "x"}', "not JSON"])
def test_a_line_that_is_no_completion_is_refused(tmp_path: Path, line: str) -> None:
    given(completions(Sampler()), asked(1), tmp_path)
    (file,) = tmp_path.iterdir()
    with file.open("a") as open_file:
        open_file.write(f"{line}\n")
    assert refusal(completions(Sampler()), tmp_path) == (
        f"{file} has a line that is no completion; delete the file, and its answers are sampled "
        "again"
    )


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    folder = tmp_path / "taken"
    assert refusal(completions(Sampler()), folder) == (
        f"the completion cache {folder} cannot be used (File exists); name another folder or mend "
        "that path"
    )


def test_the_first_line_says_whose_answers_follow(tmp_path: Path) -> None:
    given(completions(Sampler()), asked(1), tmp_path)
    (file,) = tmp_path.iterdir()
    head, *rest = map(json.loads, file.read_text().splitlines())
    assert head == {"identity": "teacher-a", "limit": 8}
    assert [sorted(line) for line in rest] == [["ids", "prompt", "sample"]] * 2
