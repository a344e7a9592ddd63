"""The few pieces of HTML that reports are put together from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from tandem.studies.plots import Plot, Row, as_image, draw
from tandem.studies.report_style import STYLE

# What is invisible or would upset a parser gets a picture of its own; \n and \t are text.
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}


def page(*, title: str, body: str) -> str:
    """A whole HTML document. Raises nothing for any text: what is no character becomes a mark."""
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )
    # Half a surrogate pair can stand in JSON, but not in a file.
    return text.encode("utf-8", errors="replace").decode("utf-8")


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Named numbers in a row that wraps."""
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs)
    return f'<dl class="facts">{items}</dl>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table that scrolls sideways on a narrow screen."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def wide_table(
    name: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: Sequence[str] = (),
) -> str:
    """A table of many columns: it scrolls in a box of its own, its first column stays in sight.

    name: what the box is called to those who do not see it. words: columns of prose, which wrap.
    A cell that says `better` or `worse` is a verdict and is marked as one.
    """
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in header)
    kinds = ["words" if one in words else "" for one in header]
    lines = "".join(
        "<tr>" + "".join(_cell(text, kind) for text, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll wide" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def figure(plot: Plot, runs: Mapping[str, Sequence[Row]]) -> str:
    """One plot with its title and its note."""
    return drawn(
        plot.title, draw(plot, runs), alt=f"{plot.title} by optimiser step", note=plot.note
    )


def drawn(title: str, svg: str, *, alt: str, note: str = "", key: str = "") -> str:
    """A picture with its title, its key (see marks.key) and its note."""
    caption = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    return f"<figure><h3>{escape(title)}</h3>{key}{as_image(svg, alt=alt)}{caption}</figure>"


def plots(figures: Sequence[str]) -> str:
    """Pictures side by side where there is room."""
    alone = " alone" if len(figures) == 1 else ""
    return f'<section class="plots{alone}">{"".join(figures)}</section>'


def notes(lines: Sequence[str]) -> str:
    """Remarks below a table or a group of plots; nothing where there are none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if lines else ""


def folded(title: str, body: str) -> str:
    """What most readers skip."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def pre(text: str, *, kind: str = "") -> str:
    """Text as it stands, in a fixed width."""
    mark = f' class="{kind}"' if kind else ""
    # A parser takes one line feed away after the tag.
    return f"<pre{mark}>\n{visible(text)}</pre>"


def visible(text: str) -> str:
    """Escaped text in which control characters are seen."""
    return escape(text.translate(_CONTROLS))


def _cell(text: str, kind: str) -> str:
    kind = text if text in ("better", "worse") else kind
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"
