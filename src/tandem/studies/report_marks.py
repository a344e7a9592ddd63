"""How methods are told apart in pictures: by colour, and by a mark for whoever sees no colours.

Names stand in the page and not in the pictures: there they may be long and of any script.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from textwrap import wrap
from typing import Literal

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tandem.studies.plots import COLOURS

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
# The same shapes for the key, in a box from 0 to 10.
_SHAPES = (
    '<circle cx="5" cy="5" r="4"/>',
    '<path d="M1 1h8v8H1z"/>',
    '<path d="M5 0 10 9H0z"/>',
    '<path d="M5 0 10 5 5 10 0 5z"/>',
    '<path d="M5 10 10 1H0z"/>',
    '<path d="M3.5 0h3v3.5H10v3H6.5V10h-3V6.5H0v-3h3.5z"/>',
    '<path d="M2.5 0 5 2.5 7.5 0 10 2.5 7.5 5 10 7.5 7.5 10 5 7.5 2.5 10 0 7.5 2.5 5 0 2.5z"/>',
    '<path d="M5 0 10 4 8 10H2L0 4z"/>',
)
_Dash = Literal["-", "-.", ":"]
_DASHES: tuple[tuple[_Dash, str], ...] = (("-", ""), ("-.", "6 2 1 2"), (":", "1.5 2"))
# Marks along a line of many points.
_ALONG = 5


def colour(index: int) -> str:
    """The colour of the method number `index`, from 0."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """The mark of the method number `index`."""
    return MARKERS[index % len(MARKERS)]


def dash(index: int) -> _Dash:
    """Its line: the first eight are solid, and colours that come again have another dash."""
    return _DASHES[(index // len(COLOURS)) % len(_DASHES)][0]


def key(names: Iterable[tuple[int, str]]) -> str:
    """What is what, above a picture: (number, name) of each method."""
    items = "".join(f"<li>{_swatch(index)}{escape(name)}</li>" for index, name in names)
    return f'<ul class="key">{items}</ul>'


def line(
    axes: Axes, x: Sequence[float], y: Sequence[float], *, index: int, sparse: bool = True
) -> None:
    """A method's line. sparse: a few marks along it, else one at every point."""
    # Not at the same places as the others' marks, lest they hide each other.
    every = max(1, len(x) // _ALONG) if sparse else 1
    axes.plot(
        x,
        y,
        dash(index),
        color=colour(index),
        marker=marker(index),
        markersize=4,
        markevery=(min(index % every, len(x) - 1), every) if len(x) else None,
    )


def share_limits(axes: Axes, shares: Iterable[float]) -> None:
    """Limits of an axis of shares: as wide as what is drawn, a fifth at the least."""
    found = list(shares)
    low, high = min(found), max(found)
    room = max(0.03, (0.2 - (high - low)) / 2)
    axes.set_ylim(max(-0.02, low - room), min(1.03, high + room))


def handle(index: int, name: str) -> Line2D:
    """A method in the key of a picture that stands on its own."""
    return Line2D(
        [], [], color=colour(index), linestyle=dash(index), marker=marker(index), markersize=4,
        label=drawable(name),
    )  # fmt: skip


def drawable(text: str) -> str:
    """`text` as far as the pictures' font has it; what it lacks becomes a box."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in text)


def wrapped(text: str, most: int) -> str:
    """On two lines of at most so many characters; what does not fit is cut."""
    return "\n".join(wrap(text, most, max_lines=2, placeholder="…"))


def shortened(text: str, most: int) -> str:
    """At most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _swatch(index: int) -> str:
    dashes = _DASHES[(index // len(COLOURS)) % len(_DASHES)][1]
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<svg viewBox="0 0 26 10" aria-hidden="true" fill="{colour(index)}">'
        f'<path d="M0 5h26" stroke="{colour(index)}" stroke-width="2"{style}/>'
        f'<g transform="translate(8 0)">{_SHAPES[index % len(_SHAPES)]}</g></svg>'
    )
