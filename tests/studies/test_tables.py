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
from tandem.studies import rating
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


def test_two_rows_of_one_name_are_refused() -> None:
    rows = [rated("base", 0.5, 0.6), rated("x", 0.9, 0.8), rated("x", 0.2, 0.1)]
    with pytest.raises(ValueError, match="two rows are called 'x'"):
        compared("t", rows, baseline="base")


def test_one_run_judged_otherwise_is_found_among_many() -> None:
    other = Rated("x", {0: record(0.5), 1: record(0.5, problems=30)})
    with pytest.raises(ValueError, match="judge both alike"):
        compared("t", [rated("base", 0.5, 0.6), other], baseline="base")


def test_bounds_of_a_rows_own_score_stay_shares() -> None:
    found = compared("t", [rated("low", 0.0, 0.1), rated("high", 1.0, 0.9)], baseline="low")
    low, high = (line.score for line in found.lines)
    assert low.low == 0.0 and high.high == 1.0
    difference = found.lines[1].against
    assert difference is not None and difference.corrected.high <= 1.0


def test_what_was_expected_shows_the_row_that_should_be_better() -> None:
    rows = {"a k": rated("A", 0.8, 0.9), "b k": rated("B", 0.3, 0.2)}
    found = rating.tested("t", rows, [("a k", "b k")])
    assert found.lines[0].score.mean == pytest.approx(0.85)
    assert found.lines[0].label == "A over B"


def test_differences_that_are_alike_on_all_seeds_are_named_as_rows_are() -> None:
    rows = {"a k": rated("A", 0.8, 0.9), "b k": rated("B", 0.3, 0.4)}
    said = " ".join(rating.tested("t", rows, [("a k", "b k")]).notes)
    assert "All seeds of A differ alike" in said and "a k" not in said
    alone = compared("t", [rated("base", 0.5), rated("x", 0.9)], baseline="base")
    assert "differ alike" not in " ".join(alone.notes)


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


def test_a_tiny_p_is_no_0() -> None:
    rows = [
        rated("base", *(0.10, 0.15, 0.10, 0.15, 0.10, 0.15)),
        rated("x", *(0.90, 0.95, 0.90, 1.00, 0.90, 0.95)),
    ]
    found = compared("t", rows, baseline="base")
    for text in (as_markdown([found]), "\n".join(as_text(found))):
        assert "<0.0001" in text.replace("&lt;", "<") and " 0.0000 " not in text
    _, row = csv.DictReader(io.StringIO(as_csv([found])))
    assert 0.0 <= float(row["p"]) < 0.0001, "numbers stay numbers there"
