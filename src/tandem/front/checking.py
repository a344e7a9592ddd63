"""`tandem check`: the contract tests on one method, ours or from a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from tandem.behaviours import AnyBehaviour
from tandem.behaviours.base import Behaviour
from tandem.contract import examples
from tandem.contract.checks import Finding, check_behaviour, check_objective
from tandem.objectives import AnyObjective
from tandem.objectives.base import Objective
from tandem.settings import Settings
from tandem.training.components import build_component, kinds


def check(reference: str, fields: Sequence[str]) -> list[Finding]:
    """The findings for a method: a kind of ours, or `my_method.py:MyClass`.

    fields: `name=value` for its configuration. Raises ValueError where there is no such method,
    its fields are wrong, or it is neither a behaviour nor an objective.
    """
    method = build_method(reference, fields)
    if isinstance(method, Behaviour):
        return check_behaviour(method)
    if isinstance(method, Objective):
        return check_objective(method, examples.behaviours())
    raise ValueError(
        f"{reference} is a {type(method).__name__}, which is neither a behaviour nor an objective: "
        "derive your class from one of the two"
    )


def build_method(reference: str, fields: Sequence[str]) -> Settings:
    """The method that `reference` names, configured by `name=value`."""
    data: dict[str, Any] = {"kind": reference}
    for field in fields:
        name, equals, text = field.partition("=")
        if not equals or not name:
            raise ValueError(f"{field!r} is not of the form name=value")
        inner = data
        *parents, last = name.split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = yaml.safe_load(text)
    known = kinds(AnyBehaviour) | kinds(AnyObjective)
    try:
        return build_component(Settings, known, data, place="method", source="the command line")
    except ValueError as error:
        # On the command line fields stand on their own, and are of a method of either sort.
        said = str(error).replace("method.", "").replace("no Settings", "no behaviour or objective")
        raise ValueError(said) from None


def print_findings(findings: Sequence[Finding], console: Console) -> bool:
    """One line per finding; whether all hold."""
    for finding in findings:
        mark = Text("ok   ", style="green") if finding.holds else Text("FAIL ", style="bold red")
        console.print(mark + Text(f"{finding.claim}: {finding.detail}"), soft_wrap=True)
    broken = sum(not finding.holds for finding in findings)
    console.print(Text(f"{len(findings) - broken} of {len(findings)} checks hold"), soft_wrap=True)
    return not broken
