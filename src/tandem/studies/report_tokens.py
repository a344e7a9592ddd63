"""A completion with a value per token as colour, and the same values for those who see no colours.

Each token says its value when pointed at or touched, large ones are underlined, and the mean and
the largest stand below in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from tandem.studies.page import pre, visible

TOKENS_SHOWN = 2000
"""Tokens of one completion that a page shows; of text without tokens, ten times as many letters."""
LARGEST = 3
"""Tokens that are named below a completion."""

# From these on a token has the first, second, … colour. Values of other names are cut evenly
# between the least and the largest of the page.
_KNOWN: dict[str, tuple[str, tuple[float, ...]]] = {
    "kl": ("KL in nats", (0.01, 0.1, 0.5, 2.0)),
    "exponent": ("exponent", (0.05, 0.25, 0.5, 0.75)),
}
_COLOURS = 4


@dataclass(frozen=True, slots=True)
class Side:
    """One completion. correct: None where nobody graded it. tokens, values: empty, or as many;
    a value is None where there is none. value: what the values are. about: other facts, in words.
    """

    who: str
    text: str
    correct: bool | None = None
    tokens: tuple[str, ...] = ()
    values: tuple[float | None, ...] = ()
    value: str = ""
    about: str = ""

    @property
    def numbers(self) -> list[float]:
        """The values that there are."""
        return [v for v in self.values if v is not None and math.isfinite(v)]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to colours: a value from bounds[i] on has colour i + 1, one below them none."""

    title: str
    bounds: tuple[float, ...]

    def level(self, value: float) -> int:
        return sum(value >= bound for bound in self.bounds)


def scales(sides: Iterable[Side]) -> dict[str, Scale]:
    """The scale of each kind of value, one for the whole page."""
    numbers: dict[str, list[float]] = {}
    for side in sides:
        if side.numbers:
            numbers.setdefault(side.value, []).extend(side.numbers)
    return {name: _scale(name, found) for name, found in numbers.items()}


def legend(scale: Scale) -> str:
    """What the colours mean, in numbers."""
    bounds = [f"{bound:.3g}" for bound in scale.bounds]
    names = [f"below {bounds[0]}", *(f"from {bound}" for bound in bounds)]
    swatches = "".join(
        f'<span><i class="c{level}">a</i>{escape(name)}</span>' for level, name in enumerate(names)
    )
    return f'<div class="scale"><span>{escape(scale.title)} per token:</span>{swatches}</div>'


def completion(side: Side, scale: Scale | None) -> str:
    """The text, coloured where there are values, and below it what is to be said of it."""
    if not side.tokens:
        most = 10 * TOKENS_SHOWN
        return pre(side.text[:most]) + _said(side, scale, len(side.text) - most, "letters")
    shown = zip(side.tokens[:TOKENS_SHOWN], side.values, strict=False)
    spans = "".join(_token(token, value, scale) for token, value in shown)
    said = _said(side, scale, len(side.tokens) - TOKENS_SHOWN, "tokens")
    # A parser takes one line feed away after the tag.
    return f"<pre>\n{spans}</pre>{said}"


def weight(side: Side) -> int:
    """How many tokens of it a page would show."""
    return min(len(side.tokens), TOKENS_SHOWN) or len(side.text) // 10


def _scale(name: str, values: Sequence[float]) -> Scale:
    if name in _KNOWN:
        return Scale(*_KNOWN[name])
    low, high = min(values), max(values)
    # Equal values have one colour: none.
    cuts = np.linspace(low, high if high > low else low + 1, _COLOURS + 2)[1:-1]
    return Scale(name.replace("_", " "), tuple(float(cut) for cut in cuts))


def _token(token: str, value: float | None, scale: Scale | None) -> str:
    if value is None or not math.isfinite(value) or scale is None:
        return visible(token)
    level = scale.level(value)
    mark = f' class="c{level}"' if level else ""
    return f'<i{mark} title="{value:.3g}">{visible(token)}</i>'


def _said(side: Side, scale: Scale | None, left_out: int, unit: str) -> str:
    said = [side.about] if side.about else []
    if left_out > 0:
        said.append(f"{left_out} more {unit} are not shown")
    if side.numbers and scale is not None:
        said.append(_in_words(side, scale))
    # The script says here which token was touched.
    touched = "<p><output></output></p>" if side.numbers else ""
    return (f"<p>{escape('; '.join(said))}</p>" if said else "") + touched


def _in_words(side: Side, scale: Scale) -> str:
    known = [
        (value, number)
        for number, value in enumerate(side.values)
        if value is not None and math.isfinite(value)
    ]
    largest = sorted(known, key=lambda one: (-one[0], one[1]))[:LARGEST]
    named = ", ".join(
        f"{value:.3g} at {visible_name(side.tokens[number])} (token {number + 1})"
        for value, number in largest
    )
    return f"{scale.title}: mean {np.mean(side.numbers):.3g}, largest {named}"


def visible_name(token: str) -> str:
    """A token in quotation marks, its spaces and line feeds seen."""
    return f"“{token.translate({10: '⏎', 9: '⇥', 32: '␣'})}”"
