"""Texts to pretrain on: worked chains of arithmetic, by careful writers or by careless ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from pydantic import Field

from tandem.settings import Settings

DIGITS = "0123456789"


class CorpusSettings(Settings):
    """misprints: the chance that a digit of a written result is replaced by a random one (which
    may be the same). The next operation goes on from what is written, so a misprint spreads as a
    slip of the pen does."""

    misprints: float = Field(default=0.0, ge=0.0, le=1.0)


def write(problem: str, settings: CorpusSettings, source: Random) -> str:
    """A worked answer to `a±b±c=`, in the form of `tandem.tasks.arithmetic.worked`, with that
    corpus's share of misprints; without them it is that answer exactly."""
    first, *rest = re.findall(r"[+-]?\d+", problem)
    total, steps = int(first), list[str]()
    while rest:
        total += int(rest.pop(0))
        result = "".join(_digit(mark, settings.misprints, source) for mark in str(total))
        total = int(result)
        steps.append(result + "".join(rest))
    return "=".join(steps)


def _digit(mark: str, misprints: float, source: Random) -> str:
    if mark != "-" and misprints and source.random() < misprints:
        return source.choice(DIGITS)
    return mark


def draw(
    problems: Sequence[str], count: int, settings: CorpusSettings, source: Random
) -> list[tuple[str, str]]:
    """`count` texts as (problem, worked answer), the problems drawn with replacement."""
    chosen = [source.choice(problems) for _ in range(count)]
    return [(problem, write(problem, settings, source)) for problem in chosen]
