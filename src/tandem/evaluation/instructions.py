"""Whether an answer follows its instructions, by the checks that a benchmark's authors wrote.

The checks are a package's: a registry `INSTRUCTION_DICT` from an instruction's name to a class
with `build_description(**arguments)` and `check_following(answer)`, as in Google's IFEval and all
that was made after it. What is here is the protocol around them (Zhou et al., arXiv 2311.07911,
§ 2.2): strict checks the answer as it stands, loose checks it in eight readings.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

Registry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The instructions of one prompt: names, and their arguments without those left open."""

    prompt: str
    names: tuple[str, ...]
    arguments: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Followed:
    """For each instruction whether the answer follows it, strictly and loosely. broken: checks
    that raised an exception, which count as not followed."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]
    broken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Accuracies:
    """Shares in 0..1: of prompts all of whose instructions are followed, and of instructions."""

    prompt_strict: float
    prompt_loose: float
    instruction_strict: float
    instruction_loose: float


@cache
def registry(module: str, *, data: tuple[str, ...], install: str) -> Registry:
    """The checks of an installed package, by the module that holds `INSTRUCTION_DICT`.

    data: what they read of nltk's data, which are looked for first, because some packages
    would download them at import. Raises ValueError that says what to install.
    """
    try:
        import nltk
        from langdetect import DetectorFactory
    except ImportError as error:
        raise ValueError(
            f"instructions are checked with {error.name}, which is not installed: "
            "pip install 'tandem-opd[eval]'"
        ) from None
    for resource in data:
        try:
            nltk.data.find(resource)
        except LookupError:
            name = resource.split("/")[1]
            raise ValueError(
                f"{module} reads nltk's {resource}, and no folder of nltk's data holds it: run "
                f"python -m nltk.downloader {name}, or set NLTK_DATA to a folder that has it"
            ) from None
    # It draws at random unless told, and grades shall not change from one time to the next.
    DetectorFactory.seed = 0
    try:
        return importlib.import_module(module).INSTRUCTION_DICT
    except ImportError as error:
        raise ValueError(
            f"instructions are checked by {module}, and {error.name} is not installed: {install}"
        ) from None


@contextmanager
def _same_draws(text: str) -> Iterator[None]:
    """Draws of the `random` module depend on the text alone, and others' go on as if undisturbed.

    The published checks draw what they cannot read: the letter of IFEval's prompts 1122 and 1129,
    which ask for "#" and "!".
    """
    state = random.getstate()
    random.seed(text)
    try:
        yield
    finally:
        random.setstate(state)


def build(checks: Registry, wanted: Wanted) -> list[Any]:
    """One checker per instruction. Raises ValueError for a name that the registry lacks."""
    with _same_draws(wanted.prompt):
        return _built(checks, wanted)


def _built(checks: Registry, wanted: Wanted) -> list[Any]:
    built: list[Any] = []
    for name, arguments in zip(wanted.names, wanted.arguments, strict=True):
        if name not in checks:
            raise ValueError(
                f"the checks installed have no instruction {name!r}: install those of the "
                "benchmark's own release"
            )
        checker = checks[name](name)
        checker.build_description(**arguments)
        if "prompt" in (checker.get_instruction_args() or {}):
            checker.build_description(prompt=wanted.prompt)
        built.append(checker)
    return built


def readings(answer: str) -> list[str]:
    """The answer, and the same without its stars, its first line, its last line, and every
    combination: what a loose check forgives."""
    lines = answer.split("\n")
    found: list[str] = []
    for first, last, stars in product((False, True), repeat=3):
        kept = lines[1 if first else 0 : -1 if last else None]
        text = "\n".join(kept).strip() if first or last else answer
        found.append(text.replace("*", "") if stars else text)
    return found


def followed(checks: Registry, wanted: Wanted, answer: str) -> Followed:
    """Check one answer."""
    strict: list[bool] = []
    loose: list[bool] = []
    broken: list[str] = []
    fresh, again = build(checks, wanted), build(checks, wanted)
    for name, checker, other in zip(wanted.names, fresh, again, strict=True):
        try:
            as_it_stands = _follows(checker, answer)
            forgiven = any(_follows(other, reading) for reading in readings(answer))
        # Others' code on any text at all: what it raises must not end the run, and is told.
        except Exception as error:
            broken.append(f"{name} ({type(error).__name__})")
            as_it_stands = forgiven = False
        strict.append(as_it_stands)
        loose.append(forgiven)
    return Followed(tuple(strict), tuple(loose), tuple(broken))


def _follows(checker: Any, answer: str) -> bool:
    return bool(answer.strip()) and bool(checker.check_following(answer))


def accuracies(found: Sequence[Followed]) -> Accuracies:
    """The four published numbers. Raises ValueError for no answers."""
    if not found:
        raise ValueError("accuracies need at least one answer; none was given")

    def share(marks: list[bool]) -> float:
        return sum(marks) / len(marks)

    return Accuracies(
        prompt_strict=share([all(one.strict) for one in found]),
        prompt_loose=share([all(one.loose) for one in found]),
        instruction_strict=share([mark for one in found for mark in one.strict]),
        instruction_loose=share([mark for one in found for mark in one.loose]),
    )
