"""What README.md tells people to type exists, and its Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from typer import Context
from typer.core import TyperGroup
from typer.main import get_command

from tandem.cli import app
from tandem.training.config import load_config
from tandem.training.own_recipes import own_recipes
from tandem.types import Clock

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CLI = get_command(app)


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def _commands() -> list[str]:
    lines = "".join(_blocks("bash")).splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_two_commands_come_first() -> None:
    assert _commands()[:3] == ["make demo", "pip install ./tandem_opd-*.whl", "tandem demo"]


@pytest.mark.parametrize("command", [c for c in _commands() if c.startswith("tandem ")])
def test_every_tandem_command_parses_and_names_a_recipe_that_exists(command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    assert isinstance(CLI, TyperGroup)
    name, subcommand, arguments = CLI.resolve_command(Context(CLI), words)
    assert name is not None and subcommand is not None
    context = subcommand.make_context(name, list(arguments))
    if "recipe" in context.params:
        # The README's own file is named in its first line.
        assert context.params["recipe"] in {*own_recipes(), _own_file()}


@pytest.mark.parametrize("command", [c for c in _commands() if c.startswith("make ")])
def test_every_make_target_exists(command: str) -> None:
    target = shlex.split(command, comments=True)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M)


def test_every_command_is_one_that_is_checked() -> None:
    assert {c.split()[0] for c in _commands()} == {"make", "pip", "tandem"}


def _own_file() -> str:
    (own,) = _blocks("yaml")
    return own.splitlines()[0].removeprefix("# ")


def test_every_link_into_the_repository_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"`((?:src|docs|recipes)/[\w/.]+)`", README):
        assert (ROOT / target).exists(), target


def test_every_method_that_can_be_named_stands_in_the_table() -> None:
    from tandem.behaviours import AnyBehaviour
    from tandem.objectives import AnyObjective
    from tandem.training.components import kinds

    ours = {**kinds(AnyBehaviour), **kinds(AnyObjective)}
    cells = re.findall(r"^\| [^|]+\| (`\w+`(?:, `\w+`)*) \|$", README, flags=re.M)
    named = [kind for cell in cells if cell != "`kind`" for kind in re.findall(r"\w+", cell)]
    assert sorted(named) == sorted(ours)


def test_yaml_blocks_are_yaml() -> None:
    for block in _blocks("yaml"):
        assert isinstance(yaml.safe_load(block), dict)


@pytest.mark.slow
def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block, _ = _blocks("python")
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "runs" / "from-python" / "report.html").is_file()


def test_the_python_is_about_ten_lines() -> None:
    block, _ = _blocks("python")
    assert len(block.strip().splitlines()) <= 10


def test_the_method_from_outside_is_found_and_is_a_law(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, method = _blocks("python")
    Path("my_method.py").write_text(method)
    (own,) = _blocks("yaml")
    Path(_own_file()).write_text(own)
    config = load_config(_own_file())
    p, q = torch.randn(2, 7, 5).log_softmax(-1)
    law = config.behaviour(
        student_logp=p, teacher_logp=q, clock=Clock(0, 1), position=torch.zeros(7)
    )
    torch.testing.assert_close(law.logp.exp(), 0.5 * (p.exp() + q.exp()))
