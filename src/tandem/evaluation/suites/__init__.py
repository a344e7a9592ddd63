"""The benchmarks by name; a new suite is a file and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, get_args

from pydantic import Field, ValidationError

from tandem.evaluation.suites.arithmetic import ArithmeticSuite
from tandem.evaluation.suites.base import Suite
from tandem.evaluation.suites.competitions import AIME24, AIME25, AMC23, AMCAimo83
from tandem.evaluation.suites.gpqa import GPQADiamond
from tandem.evaluation.suites.gsm8k import GSM8K
from tandem.evaluation.suites.humaneval import HumanEval
from tandem.evaluation.suites.ifbench import IFBench
from tandem.evaluation.suites.ifeval import IFEval
from tandem.evaluation.suites.livecodebench import LiveCodeBench
from tandem.evaluation.suites.math500 import Math500
from tandem.evaluation.suites.mbpp import MBPP
from tandem.evaluation.suites.minerva import Minerva
from tandem.evaluation.suites.mmlu import MMLURedux, MMLUStem
from tandem.evaluation.suites.olympiadbench import OlympiadBench

_Members = (
    Math500
    | OlympiadBench
    | AMC23
    | AMCAimo83
    | AIME24
    | AIME25
    | GSM8K
    | Minerva
    | MMLUStem
    | GPQADiamond
    | MMLURedux
    | IFEval
    | IFBench
    | HumanEval
    | MBPP
    | LiveCodeBench
    | ArithmeticSuite
)
AnySuite = Annotated[_Members, Field(discriminator="kind")]

SUITES: dict[str, type[Suite]] = {
    str(member.model_fields["kind"].default): member for member in get_args(_Members)
}

__all__ = ["SUITES", "AnySuite", "Suite", "suite_named"]


def suite_named(kind: str, fields: Mapping[str, Any]) -> Suite:
    """The suite of that name with these fields over its published protocol.

    Raises ValueError in one sentence: no such suite or field, with the nearest match, or a value
    that it cannot have.
    """
    if kind not in SUITES:
        raise ValueError(f"there is no suite {kind!r}; {_nearest(kind, list(SUITES))}")
    cls = SUITES[kind]
    try:
        return cls.model_validate({"kind": kind, **fields})
    except ValidationError as error:
        raise ValueError(_sentence(error, cls, kind)) from None


def _sentence(error: ValidationError, cls: type[Suite], kind: str) -> str:
    # An unknown field first: the misspelt twin of a missing one explains both.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"suite {kind} has no field {name!r}; {_nearest(name, list(cls.model_fields))}"
    if first["type"] == "missing":
        return f"suite {kind} needs {name}; say {kind}.{name}=..."
    message = first["msg"].removeprefix("Value error, ")
    if not name or first["type"] in ("value_error", "assertion_error"):
        return message.removesuffix(".")
    return f"{name} of suite {kind} is {first['input']!r}, but it {message.removeprefix('Input ')}"


def _nearest(word: str, known: list[str]) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
