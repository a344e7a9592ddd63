"""IFEval: every prompt of the real data can be graded, and worked answers grade as they should."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nltk
import pytest
from language_data import make

from tandem.evaluation import instructions
from tandem.evaluation.instructions import readings
from tandem.evaluation.suites.ifeval import IFEval
from tandem.tasks.base import Prompt


@pytest.fixture(scope="module", autouse=True)
def language_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("nltk_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nltk.data, "path", [str(folder)])
        make(folder)
        yield
    instructions.registry.cache_clear()


@pytest.fixture(scope="module")
def suite() -> IFEval:
    return IFEval()


def prompt_with(suite: IFEval, *instructions: tuple[str, dict[str, Any]]) -> Prompt:
    row = {
        "key": 7,
        "prompt": "Say it.",
        "instruction_id_list": [name for name, _ in instructions],
        # As on the hub: a column for every argument, most of them empty.
        "kwargs": [{"num_words": None, "language": None, **given} for _, given in instructions],
    }
    return suite.problem_of(row, 0)


TABLES = '{"a": [1, 2]}'
WORKED = [
    ("punctuation:no_comma", {}, "One and two.", "One, two."),
    (
        "length_constraints:number_words",
        {"relation": "at least", "num_words": 4},
        "one two three four",
        "one two three",
    ),
    (
        "length_constraints:number_words",
        {"relation": "less than", "num_words": 4},
        "one two three",
        "one two three four",
    ),
    (
        "length_constraints:number_sentences",
        {"relation": "at least", "num_sentences": 3},
        "Dr. No came. Mr. Bond went! Who stayed?",
        "Dr. No came. Mr. Bond went!",
    ),
    ("keywords:existence", {"keywords": ["cat", "dog"]}, "A cat and a dog.", "A cat."),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "A category.", "A cat."),
    (
        "keywords:frequency",
        {"relation": "at least", "keyword": "cat", "frequency": 2},
        "cat, cat",
        "cat",
    ),
    (
        "keywords:letter_frequency",
        {"let_relation": "less than", "letter": "e", "let_frequency": 2},
        "one",
        "eve",
    ),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* *b*", "*a* b"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "A title\ntext"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b", "* a\n* b\n* c"),
    ("detectable_format:json_format", {}, f"```json\n{TABLES}\n```", "{a: 1}"),
    ("detectable_format:constrained_response", {}, "My answer is yes.", "Yes."),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        "SECTION 1\na",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b]", "[a] b"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi.\nP.S. Bye.", "Hi. Bye."),
    ("change_case:english_lowercase", {}, "all of this is small text", "All of this is not"),
    ("change_case:english_capital", {}, "ALL OF THIS IS LARGE TEXT", "ALL OF THIS Is NOT"),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        "NO and NO.",
        "NO and no.",
    ),
    ("startend:quotation", {}, '"Quoted."', "Not quoted."),
    ("startend:end_checker", {"end_phrase": "That is all."}, "So. That is all.", "That is all. So"),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Say it."},
        "Say it. It.",
        "It. Say it.",
    ),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\nb"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "so"},
        "One.\n\nSo two.",
        "One.\n\nThen two.",
    ),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist ein ganzer Satz auf Deutsch, und niemand wird das bezweifeln.",
        "This is a whole sentence in English, and nobody is going to doubt that.",
    ),
]


@pytest.mark.parametrize(("name", "given", "right", "wrong"), WORKED, ids=lambda v: str(v)[:40])
def test_worked_answers_grade_as_they_should(
    suite: IFEval, name: str, given: dict[str, Any], right: str, wrong: str
) -> None:
    prompt = prompt_with(suite, (name, given))
    grade = suite.grade(prompt, right)
    assert (grade.correct, grade.answered, grade.reason, grade.answer) == (True, True, "", "")
    grade = suite.grade(prompt, wrong)
    assert (grade.correct, grade.answered) == (False, True)
    assert grade.reason == f"not followed: {name}"


def test_all_25_kinds_have_a_worked_answer(suite: IFEval) -> None:
    assert {name for name, *_ in WORKED} == set(suite.registry) and len(suite.registry) == 25


def test_every_instruction_has_to_be_followed(suite: IFEval) -> None:
    comma = ("punctuation:no_comma", {})
    title = ("detectable_format:title", {})
    prompt = prompt_with(suite, comma, title)
    assert suite.grade(prompt, "<<T>> a").correct
    assert suite.grade(prompt, "<<T>> a, b").reason == "not followed: punctuation:no_comma"
    both = suite.grade(prompt, "a, b").reason
    assert both == "not followed: punctuation:no_comma, detectable_format:title"


def test_loose_forgives_a_first_and_a_last_line_and_stars() -> None:
    assert readings("*a*\nb\n*c*") == [
        *("*a*\nb\n*c*", "a\nb\nc", "*a*\nb", "a\nb"),
        *("b\n*c*", "b\nc", "b", "b"),
    ]
    strict, loose = IFEval(), IFEval(reading="loose")
    prompt = prompt_with(strict, ("startend:quotation", {}))
    answer = 'Sure, here it is:\n"Quoted."'
    assert not strict.grade(prompt, answer).correct and loose.grade(prompt, answer).correct
    assert not loose.grade(prompt, "Quoted.").correct


def test_thoughts_aloud_are_no_part_of_the_answer(suite: IFEval) -> None:
    prompt = prompt_with(suite, ("punctuation:no_comma", {}))
    assert suite.grade(prompt, "<think>Well, a, b.</think>\n\nAnswer.").correct
    nothing = suite.grade(prompt, "<think>Well.</think>\n")
    assert (nothing.correct, nothing.answered, nothing.reason) == (False, False, "no answer")


def test_the_four_accuracies_count_prompts_and_instructions(suite: IFEval) -> None:
    one = prompt_with(suite, ("punctuation:no_comma", {}))
    two = prompt_with(suite, ("punctuation:no_comma", {}), ("startend:quotation", {}))
    found = suite.accuracies([(one, "a"), (one, "a, b"), (two, 'Yes:\n"a"'), (two, "a")])
    # Prompts: 1 of 4, with the quotation forgiven its first line 2; instructions: 3 and 4 of 6.
    assert (found.prompt_strict, found.prompt_loose) == (1 / 4, 2 / 4)
    assert (found.instruction_strict, found.instruction_loose) == (3 / 6, 4 / 6)
    with pytest.raises(ValueError, match="at least one answer"):
        suite.accuracies([])


def test_grades_of_a_language_do_not_change_from_time_to_time(suite: IFEval) -> None:
    prompt = prompt_with(suite, ("language:response_language", {"language": "en"}))
    # Words of both languages, on which the detector would waver if left to chance.
    marks = {suite.grade(prompt, "hotel taxi radio die man hand").correct for _ in range(20)}
    assert len(marks) == 1


@pytest.mark.data
def test_what_the_checks_draw_at_random_is_drawn_alike_every_time(test_data: Path) -> None:
    """The published checks take a letter at random where they are asked for "#" or "!"."""
    suite = IFEval(data_root=test_data)
    drawn = {"1122": "#", "1129": "!"}
    prompts = [prompt for prompt in suite.problems if prompt.id in drawn]
    for prompt in prompts:
        letter = json.loads(prompt.answer)["arguments"][-1].get("letter", "")
        assert letter in ("", drawn[prompt.id])
        answers = [letter * 9 for letter in string.ascii_lowercase]
        once = [suite.followed(prompt, answer).strict for answer in answers]
        assert len(set(once)) == 2
        random.seed(3)
        assert [suite.followed(prompt, answer).strict for answer in answers] == once
        # And nobody else's draws are disturbed.
        assert random.random() == random.Random(3).random()


def test_an_instruction_that_the_checks_lack_is_named(suite: IFEval) -> None:
    with pytest.raises(ValueError, match="no instruction 'keywords:missing'"):
        suite.grade(prompt_with(suite, ("keywords:missing", {})), "x")


class _Breaks:
    """A check that fails on its text, as some do."""

    def __init__(self, name: str) -> None:
        self.name = name

    def build_description(self) -> str:
        return self.name

    def get_instruction_args(self) -> None:
        return None

    def check_following(self, answer: str) -> bool:
        return answer[10] == "x"


def test_a_check_that_breaks_counts_as_not_followed_and_is_told() -> None:
    wanted = instructions.Wanted("p", ("a:b",), ({},))
    found = instructions.followed({"a:b": _Breaks}, wanted, "short")
    assert found == instructions.Followed((False,), (False,), ("a:b (IndexError)",))


def test_missing_data_and_missing_packages_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = prompt_with(IFEval(), ("punctuation:no_comma", {}))
    with pytest.raises(ValueError, match=r"no_such_package is not installed: pip install"):
        IFEval(checks="no_such_package.instructions_registry").grade(prompt, "a")
    with pytest.raises(ValueError, match=r"no_such_package is not installed: pip install"):
        IFEval(checks="no_such_package.instructions_registry").ready()
    IFEval().ready()
    monkeypatch.setattr(nltk.data, "path", [])
    instructions.registry.cache_clear()
    with pytest.raises(ValueError, match=r"python -m nltk\.downloader punkt_tab, or set NLTK_DATA"):
        IFEval().grade(prompt, "a")


@pytest.mark.data
def test_all_541_prompts_can_be_graded_and_an_empty_answer_is_wrong(test_data: Path) -> None:
    suite = IFEval(data_root=test_data)
    prompts = suite.prompts("test")
    assert len(prompts) == len({prompt.id for prompt in prompts}) == 541
    for grade in suite.grade_many([(prompt, "") for prompt in prompts]):
        assert (grade.correct, grade.answered, grade.reason) == (False, False, "no answer")
    for prompt in prompts:
        assert not suite.followed(prompt, "Ja. Nein.\n\nSo?").broken


@pytest.mark.data
def test_a_real_prompt_is_graded_by_its_own_arguments(test_data: Path) -> None:
    suite = IFEval(data_root=test_data)
    # At least 12 placeholders in square brackets.
    prompt = next(prompt for prompt in suite.problems if prompt.id == "1005")
    assert suite.grade(prompt, " ".join(f"[{n}]" for n in range(12))).correct
    assert not suite.grade(prompt, " ".join(f"[{n}]" for n in range(11))).correct
