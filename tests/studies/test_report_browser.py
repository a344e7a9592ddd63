"""Samples side by side: what is shown is what was written, and values are there without colour."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.studies.report_cases import make_diagnosis

from tandem.studies.page import page
from tandem.studies.report_browser import (
    MOST_TOKENS,
    Item,
    browser,
    diagnosed_items,
    with_script,
)
from tandem.studies.report_diagnostics import Diagnosed, read_diagnosed
from tandem.studies.report_samples import samples_section
from tandem.studies.report_tokens import (
    TOKENS_SHOWN,
    Scale,
    Side,
    completion,
    legend,
    scales,
    weight,
)

NASTY = (
    "\nfirst line feed",
    "</script><script>alert(1)</script>",
    "</pre><!-- ",
    "\"quotes\" 'and' &amp; & <b>",
    "中文 😀 ‮ right to left",
    "\ttab\r\n",
    "nul \x00 bell \x07",
)


class _Pre(HTMLParser):
    """The text of each <pre>, as a browser has it, and the titles within."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.titles: list[str] = []
        self.tags: list[str] = []
        self._fresh = self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "pre":
            self.texts.append("")
            self._open = self._fresh = True
        elif tag == "i":
            self._fresh = False
            self.titles += [str(value) for name, value in attrs if name == "title"]

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._open:
            # A browser takes away one line feed right after the tag.
            self.texts[-1] += data.removeprefix("\n") if self._fresh else data
            self._fresh = False


def _read(text: str) -> _Pre:
    parser = _Pre()
    parser.feed(text)
    parser.close()
    return parser


def _seen(text: str) -> str:
    """What stands for control characters."""
    return "".join(chr(0x2400 + ord(c)) if c < " " and c not in "\n\t" else c for c in text)


def test_a_completion_is_shown_letter_by_letter_with_and_without_tokens() -> None:
    text = "".join(NASTY)
    plain = _read(completion(Side("a", text), None))
    assert plain.texts == [_seen(text)] and "script" not in plain.tags
    values = [float(i) for i in range(len(NASTY))]
    side = Side("a", text, True, NASTY, tuple(values), "kl")
    coloured = _read(completion(side, Scale("KL", (0.5, 2.5, 4.5, 5.5))))
    assert coloured.texts == [_seen(text)] and "script" not in coloured.tags
    assert coloured.titles == ["0", "1", "2", "3", "4", "5", "6"]


def test_colours_are_by_the_scale_and_the_legend_says_it() -> None:
    side = Side("a", "abcde", None, tuple("abcde"), (0.0, 0.05, 0.1, 0.7, 9.0), "kl")
    scale = scales([side])["kl"]
    found = re.findall(r'<i(?: class="(c\d)")? title="([^"]+)">(.)</i>', completion(side, scale))
    assert found == [
        ("", "0", "a"),
        ("c1", "0.05", "b"),
        ("c2", "0.1", "c"),
        ("c3", "0.7", "d"),
        ("c4", "9", "e"),
    ]
    said = re.sub("<[^>]+>", " ", legend(scale)).split()
    assert " ".join(said) == (
        "KL in nats per token: a below 0.01 a from 0.01 a from 0.1 a from 0.5 a from 2"
    )


def test_an_unknown_value_is_cut_evenly_from_its_least_to_its_largest() -> None:
    side = Side("a", "ab", None, ("a", "b"), (-1.0, 4.0), "log_ratio")
    scale = scales([side])["log_ratio"]
    assert scale.title == "log ratio" and scale.bounds == pytest.approx((0.0, 1.0, 2.0, 3.0))
    level = Side("a", "ab", None, ("a", "b"), (2.0, 2.0), "same")
    assert 'class="c' not in completion(level, scales([level])["same"])


def test_values_stand_below_in_words() -> None:
    side = Side("a", "x y\n", None, ("x", " y", "\n"), (0.5, 0.25, 0.0), "exponent")
    assert (
        "<p>exponent: mean 0.25, largest 0.5 at “x” (token 1), 0.25 at “␣y” (token 2), "
        "0 at “⏎” (token 3)</p>" in completion(side, scales([side])["exponent"])
    )


def test_tokens_without_a_value_are_text() -> None:
    side = Side("a", "xyz", None, ("x", "y", "z"), (None, float("nan"), 1.0), "kl")
    shown = completion(side, scales([side])["kl"])
    assert "<pre>\nxy<i" in shown and "mean 1," in shown


def test_long_completions_are_cut_and_say_so() -> None:
    tokens = ("a",) * (TOKENS_SHOWN + 7)
    side = Side("a", "a" * len(tokens), None, tokens, (0.0,) * len(tokens), "kl")
    shown = completion(side, scales([side])["kl"])
    assert shown.count("<i ") == TOKENS_SHOWN and "7 more tokens are not shown" in shown
    assert weight(side) == TOKENS_SHOWN
    long = Side("a", "b" * (10 * TOKENS_SHOWN + 3))
    assert "3 more letters are not shown" in completion(long, None)


def _items(count: int, source: str = "run") -> list[Item]:
    return [Item(source, f"p{i}", (Side("student", f"t{i}", i % 2 == 0),)) for i in range(count)]


def test_200_samples_are_all_in_the_page_and_are_hidden_by_the_script_alone() -> None:
    text = with_script(browser(_items(200)))
    assert text.count('<article class="item"') == 200 and "hidden>" in text
    # The controls alone are hidden as long as no script shows them.
    assert re.findall(r"<\w+[^>]* hidden", text) == ['<div class="bar" hidden']


def test_filters_find_what_was_right_and_where_it_is_from() -> None:
    text = browser([*_items(2, "one"), *_items(2, "<two>")])
    assert re.findall('data-is="([^"]+)"', text) == [
        "of-0 right-0",
        "of-1 right-0",
        "of-0 wrong-0",
        "of-1 wrong-0",
    ]
    assert '<option value="right-0">student: right</option>' in text
    assert '<option value="of-1">&lt;two&gt;</option>' in text


def test_a_page_that_grows_too_large_leaves_out_the_last_of_every_run() -> None:
    tokens = ("a",) * 1000
    side = Side("student", "a" * 1000, True, tokens, (0.0,) * 1000, "kl")
    items = [Item(name, f"{i}", (side,)) for name in ("one", "two") for i in range(100)]
    text = browser(items)
    kept = MOST_TOKENS // 1000
    assert f"{kept} of 200 are shown, to keep the page small." in text
    assert text.count(">one</p>") == text.count(">two</p>") == kept // 2


def test_the_script_is_there_once_and_only_with_a_browser() -> None:
    assert "<script" not in with_script('<p>&lt;section class="browser"</p>')
    assert with_script(browser(_items(1)) + browser(_items(1))).count("<script>") == 1


def _diagnosed(tmp_path: Path, change: Any = None) -> Diagnosed:
    path = make_diagnosis(tmp_path, samples=3)
    if change is not None:
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
    return read_diagnosed(path, "TRB, seed 0")


def test_the_three_who_answered_stand_beside_each_other(tmp_path: Path) -> None:
    items = diagnosed_items(_diagnosed(tmp_path))
    assert [item.prompt for item in items] == [f"12+34-5= #{i}" for i in range(3)]
    for item in items:
        assert [s.who for s in item.sides] == ["student before", "student after", "teacher"]


def test_second_samples_of_a_prompt_are_an_item_of_their_own(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["samples"] += [dict(one, text="again") for one in data["samples"][:2]]

    items = diagnosed_items(_diagnosed(tmp_path, change))
    assert [len(item.sides) for item in items] == [3, 2, 3, 3]


def test_a_sample_whose_values_do_not_fit_its_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        diagnosed_items(_diagnosed(tmp_path, lambda data: data["samples"][0]["values"].pop()))
    assert re.fullmatch(
        r"a sample of TRB, seed 0 has 12 tokens and 11 values: write it anew with tandem diagnose",
        str(caught.value),
    )


def test_half_a_surrogate_pair_does_not_keep_a_page_from_being_written() -> None:
    text = page(title="x", body=completion(Side("a", "half \ud83d"), None))
    assert "half ?" in text and text.encode("utf-8")


def _training(method: str, steps: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {"step": step, "id": step, "prompt": f"p{step}", "completion": method, "tokens": 3}
        for step in steps
    ]


def test_answers_of_methods_to_one_prompt_stand_beside_each_other() -> None:
    runs = {"opd": _training("opd", range(1, 41)), "trb": _training("trb", range(1, 46))}
    text = samples_section(runs, seed=2)
    assert "<h2>Samples while training, seed 2</h2>" in text
    assert text.count('class="item"') == 6 and text.count('class="side"') == 12
    # The last step that both have comes first.
    assert re.findall(r'class="of">(step \d+)', text)[0] == "step 40"
    assert "tokens: 3" in text


def test_prompts_that_differ_stand_alone_and_no_samples_are_no_section() -> None:
    other = [dict(sample, prompt="q") for sample in _training("trb", [1])]
    text = samples_section({"opd": _training("opd", [1]), "trb": other}, seed=None)
    assert text.count('class="item"') == 2 and text.count('class="side"') == 2
    assert samples_section({"opd": [], "trb": []}, seed=None) == ""
