"""The few pieces of HTML that reports are put together from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from tandem.studies.plots import Plot, Row, as_image, draw

STYLE = """
:root { color-scheme: light; --ink: #1c2026; --soft: #555b66; --rule: #e3e5e8; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.6rem; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 40px 0 8px; }
h3 { font-size: 1rem; margin: 0 0 4px; }
header p { color: var(--soft); margin: 0 0 16px; overflow-wrap: anywhere; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr));
  gap: 12px 24px; border: solid var(--rule); border-width: 1px 0; padding: 14px 0; margin: 0; }
dl.facts dt { color: var(--soft); font-size: .85rem; }
dl.facts dd { margin: 0; font-size: 1.1rem; font-variant-numeric: tabular-nums; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 28px 32px; margin-top: 28px; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 8px 0; }
th, td { text-align: left; white-space: nowrap; padding: 6px 20px 6px 0;
  border-bottom: 1px solid var(--rule); }
th { color: var(--soft); font-weight: 500; font-size: .85rem; }
@media (max-width: 560px) { th, td { white-space: normal; padding-right: 12px; } }
pre { font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.sample { border-top: 1px solid var(--rule); padding: 10px 0; }
.sample .prompt { color: var(--soft); }
.sample p { color: var(--soft); font-size: .85rem; margin: 4px 0 0; }
details { border-top: 1px solid var(--rule); padding: 10px 0; }
h2 + section + details { margin-top: 24px; }
summary { cursor: pointer; }
"""


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


def figure(plot: Plot, runs: Mapping[str, Sequence[Row]]) -> str:
    """One plot with its title and its note."""
    image = as_image(draw(plot, runs), alt=f"{plot.title} by optimiser step")
    note = f"<figcaption>{escape(plot.note)}</figcaption>" if plot.note else ""
    return f"<figure><h3>{escape(plot.title)}</h3>{image}{note}</figure>"
