"""Suites by name, their protocol, and the sentences for what does not exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from tandem.evaluation.suites import SUITES, AnySuite, suite_named
from tandem.evaluation.suites.mathematics import MathSuite
from tandem.tasks.arithmetic import Arithmetic

STEP_BY_STEP = r"Please reason step by step, and put your final answer within \boxed{}."
# methods.md, section 9: samples per problem of the published protocol.
PUBLISHED = {
    "gsm8k": 32,
    "math500": 64,
    "olympiadbench": 64,
    "aime24": 512,
    "aime25": 512,
    "amc23": 512,
    "amc_aimo83": 512,
}


@pytest.mark.parametrize(("kind", "samples"), PUBLISHED.items())
def test_the_published_protocol_is_the_default(kind: str, samples: int) -> None:
    suite = suite_named(kind, {})
    assert (suite.samples, suite.temperature, suite.max_new_tokens) == (samples, 1.0, 8192)
    assert suite.instruction == STEP_BY_STEP


def test_every_suite_names_its_source_and_is_one_of_the_union() -> None:
    wanted = set(PUBLISHED) | {"minerva", "mmlu_stem", "gpqa_diamond", "mmlu_redux", "arithmetic"}
    assert wanted <= set(SUITES)
    for kind in wanted:
        suite = suite_named(kind, {})
        assert suite.kind == kind and suite.hub
        assert TypeAdapter(AnySuite).validate_python({"kind": kind}) == suite
        data = json.loads(suite.model_dump_json())
        assert TypeAdapter(AnySuite).validate_python(data) == suite


def test_the_documentation_has_every_suite_with_its_source_and_samples() -> None:
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text("utf-8")
    rows = {line.split("`")[1]: line for line in text.split("\n") if line.startswith("| `")}
    for kind, cls in SUITES.items():
        cells = [cell.strip() for cell in rows[kind].strip("|").split("|")]
        samples = cls.model_fields["samples"].default
        assert cells[4].split(",")[0] in (f"{samples}", f"**{samples}**"), kind
        assert cells[4].startswith("**") == (kind in PUBLISHED), "bold is published"
        if kind not in ("livecodebench", "arithmetic"):
            assert cls.hub.partition("#")[0].partition("@")[0] in cells[1], kind
            assert cells[2] == f"`{cls.folder}`", kind


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        ("math50", {}, "there is no suite 'math50'; did you mean 'math500'?"),
        ("aime_24", {}, "there is no suite 'aime_24'; did you mean 'aime24'?"),
        ("zzz", {}, f"there is no suite 'zzz'; known are {', '.join(SUITES)}"),
        ("math500", {"sample": 3}, "suite math500 has no field 'sample'; did you mean 'samples'?"),
        (
            "math500",
            {"samples": 0},
            "samples of suite math500 is 0, but it should be greater than 0",
        ),
    ],
)
def test_mistakes_are_one_sentence(kind: str, fields: dict, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        suite_named(kind, fields)
    assert str(caught.value) == sentence


def test_a_suite_is_for_judging_and_looks_where_it_is_told(tmp_path: Path) -> None:
    suite = suite_named("math500", {"data_root": tmp_path})
    with pytest.raises(ValueError, match="suite math500 has no train problems: it is for judging"):
        suite.prompts("train")
    place = tmp_path / "math500" / "problems.jsonl"
    with pytest.raises(ValueError) as caught:
        suite.prompts("test")
    assert str(caught.value) == (
        f"suite math500 looks for its problems in {place}, and no such file is there: mend "
        "data_root, or leave it out to read HuggingFaceH4/MATH-500@test from the hub"
    )


@pytest.mark.parametrize(
    ("kind", "row", "identity", "answer"),
    [
        # As the hub has them.
        ("gsm8k", {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"}, "gsm8k-3", "2"),
        ("amc23", {"id": 4, "question": "1+1?", "answer": 27.0, "url": "u"}, "4", "27"),
        ("amc_aimo83", {"id": 4, "problem": "1+1?", "answer": 142.0, "url": "u"}, "4", "142"),
        (
            "math500",
            {"problem": "1+1?", "solution": r"\boxed{3}", "answer": "2", "unique_id": "test/1"},
            "test/1",
            "2",
        ),
        ("minerva", {"question": "1+1?", "answer": "4.5e33"}, "minerva-3", "4.5e33"),
        ("minerva", {"problem": "1+1?", "solution": r"so \boxed{2} cm"}, "minerva-3", "2"),
        ("aime24", {"id": 60, "problem": "1+1?", "solution": "s", "answer": "204"}, "60", "204"),
    ],
)
def test_rows_of_the_hub_are_read(kind: str, row: dict, identity: str, answer: str) -> None:
    prompt = suite_named(kind, {}).problem_of(row, 3)
    assert (prompt.id, prompt.text, prompt.answer) == (identity, "1+1?", answer)


def test_rows_of_another_data_set_are_refused() -> None:
    suite = suite_named("math500", {})
    assert isinstance(suite, MathSuite)
    with pytest.raises(ValueError, match="none of the columns problem, question: suite math500"):
        suite.problem_of({"text": "1+1?", "answer": "2"}, 0)


def test_arithmetic_is_the_tasks_test_split() -> None:
    task = Arithmetic(operands=4, test_size=50, seed=3)
    suite = suite_named("arithmetic", {"operands": 4, "problems_made": 50, "seed": 3})
    wanted, found = task.prompts("test"), suite.prompts("test")
    assert [(p.id, p.text, p.answer) for p in found] == [(p.id, p.text, p.answer) for p in wanted]
    right = [suite.grade(p, task.solution(q)) for p, q in zip(found, wanted, strict=True)]
    assert all(grade.correct and grade.answer for grade in right)
    assert not suite.grade(found[0], "7").correct
    short = suite_named("arithmetic", {"operands": 2, "digits": 1, "problems_made": 500})
    with pytest.raises(ValueError, match="test_size is 500, but chains of 2 numbers of 1 digits"):
        short.prompts("test")


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("4.5e33", r"4.5 \times 10^{33} \text{ erg/s}", True),
        ("4.5e33", r"4.5004 \times 10^{33}", True),
        ("4.5e33", r"4.51 \times 10^{33}", False),
        ("1.6", r"1.6 \mathrm{~cm}", True),
        ("1.6", "1.60001", True),
        ("1.6", "-1.6", False),
        ("0", "0.00001", False),
        ("-1./3", r"-\frac{1}{3}", True),
        (r"\frac{37}{4} m", r"\frac{37}{4}", False),
    ],
)
def test_minerva_takes_numbers_within_a_relative_tolerance(
    gold: str, answer: str, verdict: bool
) -> None:
    suite = suite_named("minerva", {"workers": 1})
    prompt = suite.problem_of({"problem": "?", "answer": gold}, 0)
    assert suite.grade(prompt, f"so \\boxed{{{answer}}}").correct is verdict
