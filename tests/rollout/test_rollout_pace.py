"""How many drafts a round takes, and where its costs are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rollout_models import CLOCK, COSTS, Watched, generate, pair, ragged, tokens

from tandem.behaviours import FixedBudgetBlend, Student
from tandem.rollout import Engine, costs, engine, pace, session
from tandem.rollout.costs import CostBook, measure_costs
from tandem.rollout.graphs import repeated
from tandem.rollout.pace import CostTable, Pace, expected_tokens, widest
from tandem.rollout.session import Terms
from tandem.rollout.tally import Tally
from tandem.types import Request, Sampling, SignalSpec

BLEND = FixedBudgetBlend(budget=0.1)
# Every draft costs the same, or one costs nothing beside the round.
FLAT = CostTable((1, 8), (1, 8), ((1.0, 1.0), (1.0, 1.0)))
STEEP = CostTable((1, 8), (1, 8), ((1.0, 1.0), (1.0, 99.0)))


def chosen(block: pace.Block, costs: CostTable | None = None, **changes: Any) -> int:
    given: dict[str, Any] = {"rows": 1, "tally": Tally(), "left": 100, "row_bytes": 1, **changes}
    made = Pace(block, costs, row_bytes=given["row_bytes"])
    return made.choose([given["left"]] * given["rows"], given["tally"])


def test_no_more_drafts_than_any_response_has_left() -> None:
    assert [chosen(4, left=n) for n in (1, 3, 4, 9)] == [1, 3, 4, 4]
    assert [chosen("auto", FLAT, left=n) for n in (1, 5, 7, 9)] == [1, 4, 6, 8]


def test_the_distributions_of_a_round_stay_below_their_bound() -> None:
    share = pace.SCRATCH_BYTES // 4
    assert [chosen(8, row_bytes=share, rows=n) for n in (1, 2, 4, 99)] == [4, 2, 1, 1]
    assert [chosen("auto", FLAT, row_bytes=share, rows=n) for n in (1, 2, 99)] == [4, 2, 1]


def test_auto_takes_what_settles_most_tokens_a_second() -> None:
    assert chosen("auto", FLAT, rows=8) == 8
    assert chosen("auto", STEEP, rows=1) == 8 and chosen("auto", STEEP, rows=8) == 1
    # Between the measured rows costs are interpolated: at 1 + 98 · (g − 1)/49 two do not pay.
    assert chosen("auto", STEEP, rows=2) == 1


def test_auto_learns_from_what_was_judged() -> None:
    dear = CostTable((1,), (1, 2, 8), ((1.0, 1.5, 4.5),))
    assert chosen("auto", dear, tally=Tally(tried=10_000, stayed=9_990)) == 8
    assert chosen("auto", dear, tally=Tally(tried=10_000, stayed=1_000)) == 1


def test_few_judged_drafts_weigh_little_and_many_decide() -> None:
    # Two drafts for 1.6 times the cost pay where more than six of ten stay.
    near = CostTable((1,), (1, 2), ((1.0, 1.6),))
    assert chosen("auto", near, left=2) == 2, "before anything was judged most are taken to stay"
    assert chosen("auto", near, left=2, tally=Tally(tried=4, stayed=0)) == 2
    assert chosen("auto", near, left=2, tally=Tally(tried=32, stayed=0)) == 1


def test_auto_counts_what_each_response_can_still_take() -> None:
    # 1 + 0.2 · (g − 1) seconds, every draft stays: wider is better as long as the tokens are kept.
    sloped = CostTable((1, 8), (1, 8), ((1.0, 2.4), (1.0, 2.4)))
    sure = Tally(tried=10**9, stayed=10**9)

    def width(*left: int) -> int:
        return Pace("auto", sloped, row_bytes=1).choose(left, sure)

    assert width(8, 8, 8, 8) == 8 and width(99, 99, 99, 99) == 8
    assert width(2, 2, 2, 8) == 2, "8 + 3 · 2 tokens in 2.4 s are fewer than 4 · 2 in 1.2"
    assert width(7, 7, 7, 8) == 8, "not for one token"
    assert width(6, 6, 6, 8) == 6, "26 tokens in 2.4 s are fewer than 24 in 2.0"
    assert width(7, 7, 7, 7, 7, 8) == 6, "43 tokens in 2.4 s are fewer than 36 in 2.0"
    assert width(1, 1, 1, 1) == 1 and width(1) == 1
    # One pace meets changing numbers of rows.
    steep = Pace("auto", STEEP, row_bytes=1)
    assert [steep.choose([99] * n, Tally()) for n in (1, 8, 1)] == [8, 1, 8]


def test_expected_tokens_and_the_widest_round() -> None:
    assert expected_tokens(0.5, 3) == pytest.approx(1 + 0.5 + 0.25)
    assert expected_tokens(1.0, 3) == 3.0 and expected_tokens(0.0, 3) == 1.0
    for replayed in (False, True):
        assert widest("auto", alone=False, replayed=replayed) == max(pace.WIDTHS)
        assert widest(5, alone=False, replayed=replayed) == 5
        # A student alone drafts for nobody, but a replayed round may hold several of its tokens.
        alone = pace.REPLAYED if replayed else 1
        assert widest("auto", alone=True, replayed=replayed) == alone


def test_a_table_is_linear_inside_and_flat_outside() -> None:
    table = CostTable((1, 3), (2, 4), ((1.0, 3.0), (5.0, 9.0)))
    assert table.at(2, 3) == pytest.approx(4.5)
    assert table.at(1, 3) == 2.0 and table.at(3, 3) == 7.0
    assert table.at(99, 99) == 9.0 and table.at(1, 1) == 1.0


def test_a_round_of_one_response_is_never_wider_than_what_it_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The longest of the live responses decides, not the shortest."""
    asked: list[tuple[int, list[int]]] = []
    right = session.Session.round

    def watched(self: session.Session, width: int) -> None:
        asked.append((width, [row.limit - len(row.ids) for row in self.rows]))
        right(self, width)

    monkeypatch.setattr(session.Session, "round", watched)
    student, teacher = pair()
    made = Engine(student, {"teacher": teacher}, slots=3, block=8)
    generate(made, ragged(12, size=13), BLEND)
    assert all(width == min(8, max(left)) for width, left in asked)
    assert any(width > min(left) for width, left in asked)
    assert any(width < 8 for width, _ in asked)


def test_the_book_is_on_disk_and_read_from_there(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    CostBook(path).keep("first", COSTS)
    CostBook(path).keep("second", FLAT)
    again = CostBook(path)
    assert "nobody" not in again and again["first"] == COSTS and again["second"] == FLAT


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"a": 1}', '{"a": {"rows": [1], "widths": [1, 2], "seconds": [[1.0]]}}', '{"a":'],
)
def test_a_file_that_holds_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "engine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="holds no table of decoding costs; delete it"):
        CostBook(path)


def test_costs_are_measured_once_and_a_run_that_goes_on_takes_the_same_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, measured = tmp_path / "engine.json", list[int]()

    def measure(*_: Any, slots: int, **__: Any) -> CostTable:
        measured.append(slots)
        return COSTS

    monkeypatch.setattr(engine, "measure_costs", measure)
    fed: list[list[tuple[int, ...]]] = []
    for _ in range(2):
        student, teacher = pair()
        seen = Watched(teacher)
        made = Engine(student, {"teacher": seen}, slots=3, block="auto", costs=CostBook(path))
        generate(made, ragged(7, size=13), Student())
        assert len(measured) == len(fed[:1]), "a student alone needs no table"
        for _ in range(2):
            generate(made, ragged(7, size=13), BLEND)
        fed.append(seen.fed)
    assert measured == [3] and fed[0] == fed[1] and len({shape[1] for shape in fed[0]}) > 1


def test_measuring_covers_all_rows_and_widths_and_counts_the_quickest_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student, teacher = (Watched(s) for s in pair())
    terms = Terms(BLEND, CLOCK, Sampling(12), 7, SignalSpec(), 0)
    # The first, the sixth, … timed round is the quick one: in five sweeps each width has one.
    spent = [3.0, 5.0, 5.0, 5.0, 5.0]
    ticks = iter(t for n in range(10_000) for t in (100.0 * n, 100.0 * n + spent[n % 5]))
    monkeypatch.setattr(costs, "ROUNDS", 5)
    table = measure_costs([student, teacher], terms, slots=6, row_bytes=1, now=lambda: next(ticks))
    assert table.rows == (1, 4, 6) and table.widths == (1, 2, 4, 8)
    assert table.seconds == ((3.0,) * 4,) * 3
    shapes = [shape[:2] for shape in teacher.fed]
    assert sorted(set(shapes)) == [(n, g) for n in (1, 4, 6) for g in (1, 2, 4, 8)]
    assert all(shapes.count(shape) == 6 for shape in shapes), "one round before five timed ones"
    of_one = [width for rows, width in shapes if rows == 1]
    assert of_one == [1, 2, 4, 8] * 6, "in turn: a busy moment falls on all widths"


def test_short_rounds_are_timed_more_often_so_that_a_busy_moment_does_not_decide() -> None:
    student, teacher = (Watched(s) for s in pair())
    terms = Terms(BLEND, CLOCK, Sampling(12), 7, SignalSpec(), 0)
    spent = [0.030, 0.030, 0.030, 0.030, 0.004, 0.030]  # the fifth is not disturbed
    ticks = iter(t for n in range(10_000) for t in (100.0 * n, 100.0 * n + spent[n % 6]))
    table = measure_costs([student, teacher], terms, slots=1, row_bytes=1, now=lambda: next(ticks))
    shapes = [shape[:2] for shape in teacher.fed]
    assert {shapes.count(shape) for shape in shapes} <= {5, 6}, (
        "until 0.4 s are spent on one number of rows"
    )
    assert min(min(line) for line in table.seconds) == pytest.approx(0.004)
    quick = iter(t for n in range(10_000) for t in (100.0 * n, 100.0 * n + 0.002))
    teacher.fed.clear()
    measure_costs([student, teacher], terms, slots=1, row_bytes=1, now=lambda: next(quick))
    shapes = [shape[:2] for shape in teacher.fed]
    assert {shapes.count(shape) for shape in shapes} == {10}, "nine at the most, after one"


def test_widths_that_do_not_fit_are_not_tried_and_cost_in_proportion() -> None:
    student, teacher = (Watched(s) for s in pair())
    terms = Terms(BLEND, CLOCK, Sampling(12), 7, SignalSpec(), 0)
    ticks = iter(t for n in range(10_000) for t in (100.0 * n, 100.0 * n + 1.0 + n % 2))
    table = measure_costs(
        [student, teacher],
        terms,
        slots=4,
        row_bytes=pace.SCRATCH_BYTES // 8,
        now=lambda: next(ticks),
    )
    # Eight drafts of one row fit, and two of four rows.
    assert {shape[:2] for shape in teacher.fed} == {(1, 1), (1, 2), (1, 4), (1, 8), (4, 1), (4, 2)}
    assert table.seconds[1] == (1.0, 2.0, 4.0, 8.0)


def test_every_timed_round_has_all_its_rows_and_fixed_shapes_are_timed_more_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live: list[tuple[int, int, int]] = []
    right = session.Session.round

    def watched(self: session.Session, width: int) -> None:
        live.append((self.slots, len(self.rows), self.limit))
        right(self, width)

    monkeypatch.setattr(session.Session, "round", watched)
    terms = Terms(BLEND, CLOCK, Sampling(12), 7, SignalSpec(), 0)
    counts = {}
    for name, runner in (("plain", None), ("replayed", repeated)):
        student, teacher = (Watched(s) for s in pair())
        ticks = iter(float(n) for n in range(10_000))
        measure_costs(
            [student, teacher],
            terms,
            slots=4,
            row_bytes=1,
            runner=lambda r=runner: r,
            now=lambda t=ticks: next(t),
        )
        counts[name] = len(live)
        assert all(slots == rows and limit <= 12 for slots, rows, limit in live)
        live.clear()
    # Two numbers of rows by four widths: 1 + 3 rounds each, and 1 + 5.
    assert counts == {"plain": 2 * 4 * 4, "replayed": 2 * 4 * 6}


def test_measuring_leaves_the_responses_alone() -> None:
    requests = [Request(i, (3, 4), (5, 6)) for i in range(6)]
    truth = generate(Engine(*_with_teacher(), slots=3), requests, BLEND)
    auto = Engine(*_with_teacher(), slots=3, block="auto")
    tally = Tally()
    found = generate(auto, requests, BLEND, tally=tally)
    assert tokens(found) == tokens(truth) and "teacher" in auto.costs
    assert tally.tokens == sum(map(len, found))


def _with_teacher() -> Any:
    student, teacher = pair()
    return student, {"teacher": teacher}
