"""Tables of results in three forms, from evaluations written by hand."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.stats import ttest_rel

from tandem.evaluation.record import Record
from tandem.studies.rating import Rated, compared, zero_like
from tandem.studies.tables import ResultTable, as_csv, as_html, as_markdown, as_text


def record(share: float, *, problems: int = 20, samples: int = 1, split: str = "test") -> Record:
    """`share` of the problems solved, the first ones."""
    solved = round(share * problems)
    scores = {f"p{i}": float(i < solved) for i in range(problems)}
    return Record(split, samples, None, {"eval/pass@1": share}, scores)


def rated(label: str, *shares: float) -> Rated:
    return Rated(label, {seed: record(share) for seed, share in enumerate(shares)})


def table() -> ResultTable:
    rows = [
        rated("base", 0.50, 0.55, 0.45, 0.50),
        rated("much better", 0.80, 0.90, 0.75, 0.85),
        rated("<b>odd</b> | & name\n=1+1", 0.55, 0.50, 0.50, 0.45),
    ]
    return compared("A <i>table</i>", rows, baseline="base", notes=["of <three> | rows"])


class _Cells(HTMLParser):
    """The text of every cell, and the names of all tags."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self._open = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.cells[-1] += data


def test_rows_are_paired_by_seed_and_a_run_is_a_unit() -> None:
    found = table().lines[1]
    assert found.against is not None and found.runs == 4
    assert found.score.mean == pytest.approx(0.825)
    assert (found.against.unit, found.against.units) == ("seeds", 4)
    assert found.against.difference.mean == pytest.approx(0.325)
    # scipy's paired t-test is the reference.
    expected = ttest_rel([0.80, 0.90, 0.75, 0.85], [0.50, 0.55, 0.45, 0.50])
    low, high = expected.confidence_interval(0.95)
    assert (found.against.difference.low, found.against.difference.high) == pytest.approx(
        (low, high)
    )
    assert found.against.p == pytest.approx(expected.pvalue)
    assert found.against.holm_p == pytest.approx(2 * expected.pvalue)
    assert found.against.verdict == "better"


def test_a_row_of_several_runs_has_the_t_interval_of_its_runs() -> None:
    shares = np.array([0.80, 0.90, 0.75, 0.85])
    half = 3.182446 * shares.std(ddof=1) / 2
    found = table().lines[1].score
    assert (found.low, found.high) == pytest.approx((0.825 - half, 0.825 + half))


def test_single_runs_are_paired_by_problem_and_say_so() -> None:
    rows = [Rated("a", {0: record(0.5)}), Rated("b", {7: record(0.9)})]
    found = compared("t", rows, baseline="a")
    against = found.lines[1].against
    assert against is not None and (against.unit, against.units) == ("problems", 20)
    assert against.difference.mean == pytest.approx(0.4)
    assert "this is about these models, not about how they were made" in found.notes[0]


def test_only_seeds_that_all_rows_have_are_paired() -> None:
    rows = [rated("a", 0.5, 0.6, 0.4), rated("b", 0.7, 0.75)]
    found = compared("t", rows, baseline="a")
    assert [line.runs for line in found.lines] == [2, 2]
    alone = [rated("a", 0.5, 0.6), Rated("b", {5: record(0.7)})]
    with pytest.raises(ValueError, match="paired by seed, and these share 0"):
        compared("t", alone, baseline="a")


@pytest.mark.parametrize(
    "other", [record(0.5, problems=10), record(0.5, samples=2), record(0.5, split="validation")]
)
def test_runs_that_were_judged_differently_are_not_compared(other: Record) -> None:
    rows = [Rated("a", {0: record(0.5)}), Rated("b", {0: other})]
    with pytest.raises(ValueError, match=r"'b' was judged on .* which are not the same: judge bot"):
        compared("t", rows, baseline="a")


def test_a_model_that_is_not_there_solves_nothing() -> None:
    absent = zero_like(record(0.5))
    assert set(absent.scores.values()) == {0.0}
    assert absent.scores.keys() == record(0.5).scores.keys()


def _digits(text: str) -> list[str]:
    return re.findall(r"[+-]?\d+\.\d+", text)


def test_markdown_csv_html_and_text_hold_the_same_numbers() -> None:
    one = table()
    rows = list(csv.DictReader(io.StringIO(as_csv([one]))))
    numbers = [[row[key] for key in list(row)[4:] if row[key] and key != "verdict"] for row in rows]
    assert [len(found) for found in numbers] == [3, 11, 11]

    markdown = [line for line in as_markdown([one]).splitlines() if line.startswith("| ")][2:]
    assert [_digits(line) for line in markdown] == numbers

    page = _Cells()
    page.feed(as_html([one], title="t"))
    width = len(page.cells) // 4
    shown = [" ".join(page.cells[i * width : (i + 1) * width]) for i in (1, 2, 3)]
    assert [_digits(line) for line in shown] == numbers

    text = as_text(one)
    assert text[0] == one.title and [_digits(line) for line in text[2:5]] == numbers


def test_names_are_escaped_in_every_form() -> None:
    one, odd = table(), "<b>odd</b> | & name\n=1+1"
    page = _Cells()
    page.feed(as_html([one], title="<script>alert(1)</script>"))
    assert odd in page.cells and not {"b", "i", "three", "script"} & page.tags

    markdown = as_markdown([one])
    assert "## A &lt;i>table&lt;/i>\n" in markdown
    row = next(line for line in markdown.splitlines() if "odd" in line)
    assert row.startswith("| &lt;b>odd&lt;/b> \\| &amp; name =1+1 | 4 |")
    assert "* of &lt;three> \\| rows\n" in markdown

    rows = list(csv.DictReader(io.StringIO(as_csv([one]))))
    assert [row["row"] for row in rows] == ["base", "much better", odd]
    assert {row["table"] for row in rows} == {"A <i>table</i>"}


def test_the_columns_of_settings_is_there_where_something_was_tuned() -> None:
    rows = [rated("a", 0.5, 0.6), rated("b", 0.7, 0.75)]
    assert "setting" not in as_markdown([compared("t", rows, baseline="a")])
    tuned = Rated("b", rows[1].records, setting="optimizer.lr: 0.1")
    markdown = as_markdown([compared("t", [rows[0], tuned], baseline="a")])
    assert "| setting |" in markdown and "| optimizer.lr: 0.1 |" in markdown
