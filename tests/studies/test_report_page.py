"""Reports in a real browser: every picture draws, nothing is logged, nothing is asked for, and no
page is wider than the screen. Without a browser these tests skip; see tests/studies/browser.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from tests.studies.browser import Tab, browsing
from tests.studies.report_cases import make_diagnosis, make_probe, make_study

from tandem.run import train
from tandem.studies.report_browser import PAGE_SIZE
from tandem.studies.report_folders import write_reports
from tandem.training.own_recipes import recipe_path

WIDE, PHONE = 1200, 360
PICTURES = 23
PROMPTS = 200

# What each picture is made of once it is painted: how wide its data are, and how many different
# colours it has. An empty or broken one has one colour or none.
_PAINTED = """
Promise.all([...document.images].map(async image => {
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = 240; canvas.height = 140;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, 240, 140);
  const pixels = new Uint32Array(context.getImageData(0, 0, 240, 140).data.buffer);
  return [image.naturalWidth, new Set(pixels).size];
}))
"""
_FITS = """
(() => {
  const wide = document.documentElement.clientWidth, found = [];
  for (const one of document.body.querySelectorAll("*")) {
    if (one.closest(".scroll") && !one.matches(".scroll")) continue;
    if (one.closest("svg, select") || !one.getClientRects().length) continue;
    const right = one.getBoundingClientRect().right + scrollX;
    if (right > wide + 1) found.push(`${one.tagName}.${one.className} ${right}`);
  }
  return [document.documentElement.scrollWidth, found];
})()
"""
_CONTRAST = """
(() => {
  const light = text => {
    const [r, g, b] = text.match(/[0-9.]+/g).map(Number).map(value => {
      const share = value / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = one => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  let least = [99, ""];
  const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const one = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !one.getClientRects().length) continue;
    if (one.matches("button:disabled")) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(paper(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[0]) least = [ratio, `${one.tagName}.${one.className}`];
  }
  return least;
})()
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browsing(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rows on five seeds, with a probe and a diagnosis of 200 prompts."""
    folder = make_study(tmp_path_factory.mktemp("study"))
    make_probe(folder)
    make_diagnosis(folder / "reporting" / "main" / "trb" / "seed-0", samples=PROMPTS)
    return write_reports([folder])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two real runs of the embedded pair, two steps each."""
    folder = tmp_path_factory.mktemp("real")
    small = ["training.steps=2", "training.save_every=2", "rollout.prompts_per_step=4"]
    small += [
        "optimizer.warmup_steps=1",
        "evaluation.every=1",
        "evaluation.problems=8",
        "evaluation.samples=1",
    ]
    own = {"opd": ["behaviour=student"], "trb": ["behaviour.warmup_steps=1"]}
    for name, overrides in own.items():
        train(
            recipe_path("arithmetic"), overrides=[*small, *overrides, f"name={name}"], runs=folder
        )
    return [folder / name for name in own]


def _is_sound(tab: Tab, *, width: int, pictures: int) -> None:
    assert tab.said == []
    assert [a for a in tab.asked if not a.startswith(("file:", "data:"))] == []
    assert len([a for a in tab.asked if a.startswith("file:")]) == 1
    painted: list[list[int]] = tab.value(_PAINTED)
    assert len(painted) == pictures
    assert all(natural > 0 and colours > 8 for natural, colours in painted)
    page_width, sticking_out = tab.value(_FITS)
    assert (page_width, sticking_out) == (width, [])


def _shot(tab: Tab, path: Path, *, width: int) -> np.ndarray:
    """A screenshot as [height, width, channels], which is neither blank nor of another width."""
    seen: np.ndarray = imread(tab.picture(path))
    assert seen.shape[1] == width
    # Each stretch of a screen's height has something on it.
    for top in range(0, seen.shape[0] - 900, 900):
        assert float(np.ptp(seen[top : top + 900, :, :3], axis=(0, 1)).max()) > 0.3
    return seen


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_a_studys_page_draws_in_a_real_browser(
    tab: Tab, study_page: Path, tmp_path: Path, width: int
) -> None:
    tab.open(study_page, width=width)
    _is_sound(tab, width=width, pictures=PICTURES)
    _shot(tab, tmp_path / "page.png", width=width)


def test_one_run_and_several_draw_in_a_real_browser(
    tab: Tab, runs: list[Path], tmp_path: Path
) -> None:
    several = write_reports(runs, output=tmp_path / "both.html")
    for page in (runs[1] / "report.html", several):
        for width in (WIDE, PHONE):
            tab.open(page, width=width)
            _is_sound(tab, width=width, pictures=page.read_text("utf-8").count("<img"))
            _shot(tab, tmp_path / "page.png", width=width)
    assert several.read_text("utf-8").count("<img") >= 8


@pytest.mark.parametrize(
    "how", [{}, {"dark": True}, {"media": "print"}, {"media": "print", "dark": True}], ids=str
)
def test_every_word_stands_out_from_its_ground(
    tab: Tab, study_page: Path, how: dict[str, Any]
) -> None:
    # 4.5 is what WCAG 2.2 asks of text.
    tab.open(study_page, width=PHONE, **how)
    ratio, where = tab.value(_CONTRAST)
    assert ratio >= 4.5, where


def test_the_pictures_are_dark_where_the_page_is(
    tab: Tab, study_page: Path, tmp_path: Path
) -> None:
    tab.open(study_page, width=WIDE, dark=True)
    seen = _shot(tab, tmp_path / "dark.png", width=WIDE)
    assert float(np.median(seen[..., :3])) < 0.15
    # Nowhere a white sheet: no screen is light in the middle of the range.
    for top in range(0, seen.shape[0] - 900, 900):
        assert float(np.mean(seen[top : top + 900, :, :3])) < 0.3


_STATE = """
(() => {
  const box = document.querySelector(".browser"), items = [...box.querySelectorAll(".item")];
  const shown = items.filter(item => item.getClientRects().length);
  return {shown: shown.length, all: items.length, bar: !box.querySelector(".bar").hidden,
    first: shown.length ? shown[0].querySelector("pre").textContent : "",
    told: box.querySelector(".bar output").textContent,
    verdicts: [...new Set(shown.map(item => item.querySelectorAll("h4 span")[1].className))]};
})()
"""
_PRESS = "document.querySelectorAll('.browser button')[{}].click()"
_CHOOSE = """
(() => {
  const choice = document.querySelector(".browser select");
  choice.value = [...choice.options].find(one => one.text === "%s").value;
  choice.dispatchEvent(new Event("change"));
})()
"""


def test_samples_are_paged_and_filtered(tab: Tab, study_page: Path) -> None:
    tab.open(study_page, width=WIDE)
    state = tab.value(_STATE)
    assert (state["shown"], state["all"], state["bar"]) == (PAGE_SIZE, PROMPTS, True)
    assert state["told"] == "1–10 of 200" and state["first"] == "12+34-5= #0"
    assert set(state["verdicts"]) == {"right", "wrong"}
    tab.value(_PRESS.format(1))
    assert tab.value(_STATE)["first"] == "12+34-5= #10"
    tab.value(_PRESS.format(0))
    assert tab.value(_STATE)["told"] == "1–10 of 200"
    tab.value(_PRESS.format(0))
    assert tab.value(_STATE)["told"] == "1–10 of 200"
    found = 0
    for state_word in ("right", "wrong"):
        tab.value(_CHOOSE % f"student after: {state_word}")
        state = tab.value(_STATE)
        assert state["verdicts"] == [state_word]
        found += int(state["told"].rpartition(" ")[2])
    assert found == PROMPTS and tab.said == []
    for _ in range(PROMPTS // PAGE_SIZE + 3):
        tab.value(_PRESS.format(1))
    state = tab.value(_STATE)
    assert 1 <= state["shown"] <= PAGE_SIZE
    last = state["told"].replace("–", " ").split()
    assert last[1] == last[3]


def test_a_token_says_its_value_when_touched(tab: Tab, study_page: Path) -> None:
    tab.open(study_page, width=PHONE)
    said = tab.value(
        """(() => {
          const token = document.querySelector(".item .side i[title]");
          token.click();
          const side = token.closest(".side");
          return [token.textContent, token.title, side.querySelector("output").textContent];
        })()"""
    )
    assert said[2] == f"“{said[0]}” {said[1]}" and float(said[1]) >= 0


def test_what_was_written_is_read_back_letter_by_letter(tab: Tab, tmp_path: Path) -> None:
    nasty = "</script><script>document.title='bad'</script> \"'&amp; <b>中文 😀 $x$\n\n"
    make_diagnosis(tmp_path, samples=2, text=nasty)
    tab.open(write_reports([tmp_path]), width=PHONE)
    prompts = tab.value("[...document.querySelectorAll('.item > pre')].map(one => one.textContent)")
    assert prompts == [f"{nasty} #0", f"{nasty} #1"]
    assert tab.value("document.title") == tmp_path.name
    assert tab.value("document.scripts.length") == 1 and tab.said == []


def test_without_scripts_everything_is_there(tab: Tab, study_page: Path, tmp_path: Path) -> None:
    tab.open(study_page, width=WIDE)
    with_scripts = tab.do("Page.getLayoutMetrics")["cssContentSize"]["height"]
    tab.open(study_page, width=WIDE, scripts=False)
    without = tab.do("Page.getLayoutMetrics")["cssContentSize"]
    # Ten of two hundred samples are shown with them.
    assert without["height"] > 3 * with_scripts and without["width"] == WIDE
    assert tab.said == []


def test_on_paper_nothing_is_folded_away_or_cut_off(tab: Tab, study_page: Path) -> None:
    tab.open(study_page, width=760, media="print")
    hidden = """
      [...document.querySelectorAll("details > *")]
        .filter(one => !one.checkVisibility({contentVisibilityAuto: true})).length
    """
    assert tab.value(hidden) == 0
    page_width, sticking_out = tab.value(_FITS)
    assert (page_width, sticking_out) == (760, [])
