"""docs/methods.md says of the methods what the classes say."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from tandem.behaviours import AnyBehaviour
from tandem.cli import app
from tandem.front.methods_table import BEGIN, END, described_fields, partners
from tandem.objectives import AnyObjective, ReverseKL, Supervised
from tandem.training.components import kinds

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_documentation_holds_what_the_command_prints() -> None:
    text = DOCS.read_text(encoding="utf-8")
    start, end = text.index(BEGIN), text.index(END) + len(END) + 1
    printed = CliRunner().invoke(app, ["methods", "--markdown"])
    assert printed.exit_code == 0
    assert text[start:end] == printed.output


def test_every_method_states_its_mathematics_and_its_source() -> None:
    for cls in (*kinds(AnyBehaviour).values(), *kinds(AnyObjective).values()):
        assert cls.equation and cls.source, cls.__name__  # pyright: ignore[reportAttributeAccessIssue]


def test_the_terminal_lists_every_kind() -> None:
    printed = CliRunner().invoke(app, ["methods"])
    assert printed.exit_code == 0
    for kind in (*kinds(AnyBehaviour), *kinds(AnyObjective)):
        assert f"  {kind}" in printed.output


def test_a_default_that_depends_on_other_fields_is_shown_resolved() -> None:
    assert "`top_k` = 16" in described_fields(ReverseKL)
    assert described_fields(Supervised) == "none"


def test_partners_are_found_by_asking() -> None:
    assert partners([ReverseKL(support="full")]) == "all"
    alone = partners([ReverseKL(support="sampled")])
    assert alone == "`student`, `teacher_prefix`, `off_policy_mix`"
    weighted = [ReverseKL(support="sampled"), ReverseKL(support="sampled", importance="exact")]
    assert partners(weighted) == f"{alone}; with an importance weight all others"
