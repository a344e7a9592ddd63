"""A browser of sample completions, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from typing import Any

from tandem.studies.page import pre
from tandem.studies.report_diagnostics import Diagnosed
from tandem.studies.report_script import SCRIPT
from tandem.studies.report_tokens import Scale, Side, completion, legend, scales, weight

PAGE_SIZE = 10
"""Items on a page of the browser."""
MOST_TOKENS = 150_000
"""Tokens of all items together that go into the page: about six megabytes."""
_PROMPT_SHOWN = 8000
_OPENING = '<section class="browser"'


@dataclass(frozen=True, slots=True)
class Item:
    """Completions of one prompt. source: of which run, or when."""

    source: str
    prompt: str
    sides: tuple[Side, ...]


def diagnosed_items(found: Diagnosed) -> list[Item]:
    """The samples of a diagnose.json: the first of each model side by side, then the second.

    Raises ValueError where a sample has not as many values as tokens.
    """
    by_prompt: dict[str, dict[str, list[Side]]] = {}
    for sample in found.data["samples"]:
        by_who = by_prompt.setdefault(sample["prompt"], {})
        by_who.setdefault(sample["who"], []).append(_side(sample, found.label))
    return [
        Item(found.label, prompt, tuple(side for side in sides if side is not None))
        for prompt, by_who in by_prompt.items()
        for sides in zip_longest(*by_who.values())
    ]


def browser(items: Sequence[Item]) -> str:
    """The items with legend, filters and pages; for the last two see `with_script`."""
    shown = _within_budget(_in_turns(items))
    known = scales(side for item in shown for side in item.sides)
    sources = {name: i for i, name in enumerate(dict.fromkeys(item.source for item in shown))}
    authors = {
        name: i
        for i, name in enumerate(
            dict.fromkeys(s.who for item in shown for s in item.sides if s.correct is not None)
        )
    }
    left = ""
    if len(shown) < len(items):
        left = (
            f'<p class="none">{len(shown)} of {len(items)} are shown, to keep the page small.</p>'
        )
    return (
        f'{_OPENING} data-size="{PAGE_SIZE}">{_bar(authors, sources)}'
        f"{''.join(map(legend, known.values()))}{left}"
        f"{''.join(_item(item, known, authors, sources) for item in shown)}</section>"
    )


def with_script(body: str) -> str:
    """A page's body and, where a browser stands in it, the script, once and after all of them.

    The script is constant: nothing of what is shown can get into it.
    """
    # Text is escaped, so only a real one is found.
    return f"{body}\n<script>{SCRIPT}</script>" if _OPENING in body else body


def _side(sample: Mapping[str, Any], label: str) -> Side:
    tokens, values = tuple(sample["tokens"]), tuple(sample["values"])
    if len(tokens) != len(values):
        raise ValueError(
            f"a sample of {label} has {len(tokens)} tokens and {len(values)} values: write it anew "
            "with tandem diagnose"
        )
    return Side(sample["who"], sample["text"], sample["correct"], tokens, values, sample["value"])


def _in_turns(items: Sequence[Item]) -> list[Item]:
    """The first item of every source, then the second: a full page leaves out none of them."""
    by_source: dict[str, list[Item]] = {}
    for item in items:
        by_source.setdefault(item.source, []).append(item)
    rounds = zip_longest(*by_source.values())
    return [item for one in rounds for item in one if item is not None]


def _within_budget(items: Sequence[Item]) -> list[Item]:
    kept: list[Item] = []
    total = 0
    for item in items:
        total += sum(weight(side) for side in item.sides)
        if kept and total > MOST_TOKENS:
            break
        kept.append(item)
    return kept


def _bar(authors: Mapping[str, int], sources: Mapping[str, int]) -> str:
    """Filters and pages. Hidden until the script shows them: without it they do nothing."""
    verdicts = [
        (f"{state}-{number}", f"{who}: {state}")
        for who, number in authors.items()
        for state in ("right", "wrong")
    ]
    selects = _select("Show", verdicts) if authors else ""
    if len(sources) > 1:
        selects += _select("From", [(f"of-{i}", source) for source, i in sources.items()])
    return (
        f'<div class="bar" hidden>{selects}<button type="button">previous</button>'
        '<output aria-live="polite"></output><button type="button">next</button></div>'
    )


def _select(name: str, choices: Sequence[tuple[str, str]]) -> str:
    options = "".join(
        f'<option value="{value}">{escape(text)}</option>'
        for value, text in [("", "all"), *choices]
    )
    return f"<label>{name} <select>{options}</select></label>"


def _item(
    item: Item,
    known: Mapping[str, Scale],
    authors: Mapping[str, int],
    sources: Mapping[str, int],
) -> str:
    # What the filters look for.
    words = [f"of-{sources[item.source]}"]
    words += [
        f"{_state(side)}-{authors[side.who]}" for side in item.sides if side.correct is not None
    ]
    sides = "".join(
        f'<div class="side"><h4>{escape(side.who)}{_verdict(side)}</h4>'
        f"{completion(side, known.get(side.value))}</div>"
        for side in item.sides
    )
    of = f'<p class="of">{escape(item.source)}</p>' if item.source else ""
    return (
        f'<article class="item" data-is="{" ".join(words)}">{of}{pre(item.prompt[:_PROMPT_SHOWN])}'
        f'<div class="sides">{sides}</div></article>'
    )


def _state(side: Side) -> str:
    return "right" if side.correct else "wrong"


def _verdict(side: Side) -> str:
    if side.correct is None:
        return ""
    state = _state(side)
    return f' <span class="{state}">{"✓" if side.correct else "✗"} {state}</span>'
