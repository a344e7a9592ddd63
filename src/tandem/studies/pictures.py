"""A picture before it is drawn: the same for a page of HTML and for a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tandem.studies import page
from tandem.studies import report_marks as marks
from tandem.studies.plots import SIZE, picture

# A name in a picture's own key; longer ones are cut.
_NAME = 32


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture shows. fill: draws it. alt: its main numbers in words. note: what stands
    below it. key: number and name of each method that it tells apart. size: inches."""

    title: str
    fill: Callable[[Axes], None]
    alt: str
    note: str = ""
    key: tuple[tuple[int, str], ...] = ()
    size: tuple[float, float] = SIZE

    def html(self, *, salt: str) -> str:
        """As a <figure>; names stand in the page's own text. salt: tells it from the others."""
        svg = picture(f"{salt} {self.title}", self.fill, size=self.size)
        key = marks.key(self.key) if self.key else ""
        return page.drawn(self.title, svg, alt=self.alt, note=self.note, key=key)

    def file(self) -> str:
        """As SVG text on white paper with the names below it, to be shown on its own."""
        lines = -(-len(self.key) // 2)
        size = (self.size[0], self.size[1] + 0.2 * lines)
        return picture(
            self.title, self.fill, size=size, paper="white", below=self._key if self.key else None
        )

    def _key(self, figure: Figure) -> None:
        figure.legend(
            handles=[
                marks.handle(number, marks.shortened(name, _NAME)) for number, name in self.key
            ],
            loc="outside lower left",
            ncols=2,
        )
