"""`tandem check` finds what is wrong with a method, and passes one that is right."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tandem.cli import app

RIGHT = '''
from tandem.core.divergences import reverse_kl
from tandem.objectives.base import Objective, TokenLoss
from tandem.types import SignalSpec


class Halved(Objective):
    """Half of the reverse KL."""

    kind: str

    def needs(self):
        return SignalSpec(dense=True)

    def loss(self, logits, *, signal, tokens, weight, clock):
        value = 0.5 * reverse_kl(student_logp=logits.log_softmax(-1), teacher_logp=signal.logp)
        return TokenLoss(value, value.detach())

    def declared(self, at):
        return 0.5 * reverse_kl(student_logp=at.student_logp, teacher_logp=at.teacher_logp)
'''
# Each of these mistakes has been made in public code.
WRONG = {
    "autograd of K1": (
        "log_p = logits.log_softmax(-1).gather(-1, tokens.ids[:, None])[:, 0]\n"
        "        value = log_p - signal.sampled_logp",
        "under student: follows what it declares",
    ),
    "a mean over the chunk": (
        "value = reverse_kl(student_logp=logits.log_softmax(-1), teacher_logp=signal.logp)\n"
        "        value = value.mean().expand(len(tokens))",
        "a split into chunks changes neither gradient nor metrics",
    ),
    "padding that counts": (
        "value = reverse_kl(student_logp=logits.log_softmax(-1), teacher_logp=signal.logp)\n"
        "        value = value - value.sum() / 100",
        "tokens of weight 0 change nothing",
    ),
}
# Reverse KL by its policy gradient, whose plan is the default one.
DRAWN = '''
import torch

from tandem.core.divergences import reverse_kl
from tandem.objectives.base import Objective, Plan, TokenLoss
from tandem.types import SignalSpec


class Drawn(Objective):
    """K1 as a reward."""

    kind: str

    def needs(self):
        return SignalSpec(sampled=True)

    def reads_sampled(self):
        return True

    def loss(self, logits, *, signal, tokens, weight, clock):
        log_p = logits.log_softmax(-1).gather(-1, tokens.ids[:, None])[:, 0]
        value = log_p.detach() - signal.sampled_logp
        importance = (log_p.detach() - tokens.behaviour_logp).exp()
        return TokenLoss(importance * value * log_p, value)

    def declared(self, at):
        return reverse_kl(student_logp=at.student_logp, teacher_logp=at.teacher_logp)
'''
# What each of these adds or changes, and the check that finds it.
WRONG_PLANS = {
    "given tokens count as draws": (
        "    def plan(self, step):\n"
        "        weight = torch.ones(len(step.tokens))\n"
        "        return Plan(weight, float(weight.sum()))\n",
        "given tokens: a loss of drawn tokens leaves them out, or imitates them",
    ),
    "so do the teacher's alone": (
        "    def plan(self, step):\n"
        "        weight = (~step.tokens.forced | (step.tokens.author == 2)).float()\n"
        "        return Plan(weight, float(weight.sum()))\n",
        "given tokens: a loss of drawn tokens leaves them out, or imitates them",
    ),
    "so do those under the student's name": (
        "    def plan(self, step):\n"
        "        weight = (~step.tokens.forced | (step.tokens.author == 0)).float()\n"
        "        return Plan(weight, float(weight.sum()))\n",
        "given tokens: a loss of drawn tokens leaves them out, or imitates them",
    ),
    "a draw that is not told of": (
        "    def reads_sampled(self):\n        return False\n",
        "it says whether its loss depends on the token drawn",
    ),
    "an empty rank does not gather": (
        "    def plan(self, step):\n"
        "        plan = super().plan(step)\n"
        "        if len(step.tokens):\n"
        "            step.gather(plan.weight)\n"
        "        return plan\n",
        "a rank without a token plans with the others",
    ),
    "an empty rank divides by its tokens": (
        "    def plan(self, step):\n"
        "        plan = super().plan(step)\n"
        "        return Plan(plan.weight, float(plan.weight.mean()))\n",
        "a rank without a token plans with the others",
    ),
}
LAW = '''
from tandem.behaviours.base import Behaviour, Law
from tandem.types import Author


class Doubled(Behaviour):
    """Not a law: the student's numbers, twice."""

    kind: str

    def __call__(self, *, student_logp, teacher_logp, clock, position):
        return Law(student_logp + 0.6931)

    def needs_teacher(self, clock):
        return False

    def author(self, clock):
        return Author.STUDENT
'''

DRAFTS = """
from tandem.behaviours import SpeculativeKD
from tandem.behaviours.base import Law


class Careless(SpeculativeKD):
    kind: str = "careless"

    def __call__(self, **given):
        law = super().__call__(**given)
        return Law(law.logp, law.stats, RULE)
"""

RULES = {
    "replaced by the student's own": "keeps=law.keeps, replacement=given['student_logp']",
    "keeps all but what it should": "keeps=~law.keeps, replacement=law.replacement",
    "one of the two": "keeps=law.keeps",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def test_a_right_objective_passes() -> None:
    Path("mine.py").write_text(RIGHT)
    result = CliRunner().invoke(app, ["check", "mine.py:Halved"])
    assert result.exit_code == 0, result.output
    assert "FAIL" not in result.output and "checks hold" in result.output


@pytest.mark.parametrize("mistake", WRONG)
def test_a_known_mistake_is_found(mistake: str) -> None:
    body, claim = WRONG[mistake]
    text = RIGHT.replace("SignalSpec(dense=True)", "SignalSpec(dense=True, sampled=True)")
    start, end = text.index("value = 0.5"), text.index("return TokenLoss")
    text = text[:start] + body + "\n        " + text[end:].replace("0.5 * ", "")
    Path("mine.py").write_text(text)
    result = CliRunner().invoke(app, ["check", "mine.py:Halved"])
    assert result.exit_code == 1, result.output
    assert f"FAIL {claim}" in result.output


@pytest.mark.parametrize("mistake", WRONG_PLANS)
def test_a_wrong_plan_is_found_and_nothing_else(mistake: str) -> None:
    added, claim = WRONG_PLANS[mistake]
    Path("mine.py").write_text(DRAWN)
    right = CliRunner().invoke(app, ["check", "mine.py:Drawn"])
    assert right.exit_code == 0, right.output
    Path("yours.py").write_text(DRAWN + "\n" + added)
    wrong = CliRunner().invoke(app, ["check", "yours.py:Drawn"])
    assert wrong.exit_code == 1, wrong.output
    (found,) = [line for line in wrong.output.splitlines() if line.startswith("FAIL")]
    assert found.startswith(f"FAIL {claim}: ")


def test_numbers_that_are_no_law_are_found() -> None:
    Path("mine.py").write_text(LAW)
    result = CliRunner().invoke(app, ["check", "mine.py:Doubled"])
    assert result.exit_code == 1, result.output
    assert "FAIL laws sum to one" in result.output
    assert "FAIL it is the student's law where it says so" in result.output


def test_an_objective_that_declares_nothing_is_told_to() -> None:
    Path("mine.py").write_text(RIGHT[: RIGHT.index("    def declared")])
    result = CliRunner().invoke(app, ["check", "mine.py:Halved"])
    assert result.exit_code == 1
    assert "it declares nothing: write `declared`" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["fixed_budget_blend", "budget=0.3"],
        ["speculative_kd", "top_k=25", "teacher_temperature=0.6"],
        ["reverse_kl"],
        ["trust_region"],
        ["asymmetric"],
        ["entropy_aware"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_our_own_kinds_pass_with_their_defaults_and_published_settings(
    arguments: list[str],
) -> None:
    result = CliRunner().invoke(app, ["check", *arguments])
    assert result.exit_code == 0, result.output


def test_an_objective_that_reads_what_it_did_not_ask_for_is_found() -> None:
    Path("mine.py").write_text(RIGHT.replace("SignalSpec(dense=True)", "SignalSpec()"))
    result = CliRunner().invoke(app, ["check", "mine.py:Halved"])
    assert result.exit_code != 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["check", "reverse_lk"],
            "tandem: kind is 'reverse_lk' in the command line, which is no method; did you "
            "mean 'reverse_kl'?",
        ),
        (["check", "student", "nonsense"], "tandem: 'nonsense' is not of the form name=value"),
        (
            ["check", "gone.py:Mine"],
            "tandem: kind is 'gone.py:Mine', but there is no file 'gone.py' in the current "
            "folder or beside the recipe",
        ),
        (
            ["check", "fixed_budget_blend"],
            "tandem: the command line lacks 'budget'; add it",
        ),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.output.strip() == sentence


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_for_drafts_that_draws_from_another_law_is_found(rule: str) -> None:
    drafts = DRAFTS.replace("RULE", RULES[rule])
    Path("mine.py").write_text(drafts)
    options = ["top_k=2", "teacher_temperature=0.6"]
    result = CliRunner().invoke(app, ["check", "mine.py:Careless", *options])
    assert result.exit_code == 1, result.output
    (found,) = [line for line in result.output.splitlines() if line.startswith("FAIL")]
    assert found.startswith("FAIL a rule of its own for drafts draws from its law: ")
