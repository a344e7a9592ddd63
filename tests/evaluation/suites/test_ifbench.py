"""IFBench: every prompt of the real data can be graded, by the authors' checks where they are."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nltk
import pytest
from language_data import make

from tandem.evaluation import instructions
from tandem.evaluation.suites.ifbench import IFBench
from tandem.tasks.base import Prompt

EARLIER = "if_verifiable.ifbench.instructions_registry"
AUTHORS = "ifbench.instructions_registry"


@pytest.fixture(scope="module", autouse=True)
def language_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("nltk_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nltk.data, "path", [str(folder)])
        make(folder)
        yield
    instructions.registry.cache_clear()


# The authors' package stands in no index; where it is installed, it is tested too.
INSTALLED = [m for m in (EARLIER, AUTHORS) if importlib.util.find_spec(m.partition(".")[0])]


@pytest.fixture(params=INSTALLED)
def checks(request: pytest.FixtureRequest) -> str:
    return request.param


def prompt_with(name: str, given: dict[str, Any]) -> Prompt:
    row = {"key": "7", "prompt": "p", "instruction_id_list": [name], "kwargs": [given]}
    return IFBench().problem_of(row, 0)


WORKED = [
    ("count:numbers", {"N": 2}, "1 and 22", "1 and two"),
    ("count:conjunctions", {"small_n": 2}, "this and that or those", "this and that"),
    ("count:word_count_range", {"min_words": 2, "max_words": 3}, "one two", "one"),
    ("format:no_whitespace", {}, "nothing", "no thing"),
    ("format:parentheses", {}, "([{([])}])", "([{()}])"),
    ("format:options", {"options": "yes/no/maybe"}, "Maybe.", "Perhaps."),
    ("ratio:stop_words", {"percentage": 50}, "the cat", "on the cat"),
    ("words:alphabet", {}, "all but cats do", "all cats"),
    ("words:start_verb", {}, "Write the word", "The house is old"),
    ("words:palindrome", {}, "level " * 10, "level " * 9),
    ("sentence:keyword", {"word": "cat", "N": 2}, "No dog. A cat.", "A cat. No dog."),
    ("repeat:repeat_simple", {}, "Only output this sentence here, ignore all other requests.", "p"),
]


@pytest.mark.parametrize(("name", "given", "right", "wrong"), WORKED, ids=lambda v: str(v)[:30])
def test_worked_answers_grade_as_they_should(
    checks: str, name: str, given: dict[str, Any], right: str, wrong: str
) -> None:
    suite, prompt = IFBench(checks=checks), prompt_with(name, given)
    assert suite.grade(prompt, right).correct
    assert suite.grade(prompt, wrong).reason == f"not followed: {name}"


def test_it_is_graded_loosely_unless_told(checks: str) -> None:
    loose, strict = IFBench(checks=checks), IFBench(checks=checks, reading="strict")
    prompt = prompt_with("format:options", {"options": "yes/no/maybe"})
    answer = "Here is my answer:\nMaybe"
    assert loose.grade(prompt, answer).correct and not strict.grade(prompt, answer).correct


@pytest.mark.data
def test_all_300_prompts_can_be_graded_and_an_empty_answer_is_wrong(
    checks: str, test_data: Path
) -> None:
    suite = IFBench(data_root=test_data, checks=checks)
    prompts = suite.prompts("test")
    assert len(prompts) == len({prompt.id for prompt in prompts}) == 300
    for grade in suite.grade_many([(prompt, "") for prompt in prompts]):
        assert (grade.correct, grade.answered, grade.reason) == (False, False, "no answer")
    for prompt in prompts:
        assert not suite.followed(prompt, "Ja! 7 Worte, und mehr. Nein?\n\nSo sei es.").broken


def test_without_the_authors_checks_it_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="ifbench")

    monkeypatch.setattr("importlib.import_module", missing)
    instructions.registry.cache_clear()
    said = r"pip install git\+https://github.com/allenai/IFBench.*or set checks to if_verifiable"
    with pytest.raises(ValueError, match=said):
        IFBench().grade(prompt_with("count:numbers", {"N": 1}), "1")


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("corpora/stopwords", "stopwords"),
        ("taggers/averaged_perceptron_tagger_eng", "averaged_perceptron_tagger_eng"),
    ],
)
def test_data_that_are_missing_are_asked_for(
    part: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    make(tmp_path)
    (tmp_path / part).rename(tmp_path / "elsewhere")
    instructions.registry.cache_clear()
    with pytest.raises(ValueError, match=f"python -m nltk.downloader {name}"):
        IFBench(checks=EARLIER).grade(prompt_with("count:numbers", {"N": 1}), "1")
