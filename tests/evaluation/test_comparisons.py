"""Comparisons with a baseline: worked numbers, Holm, error over a table, power, refusals."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from tandem.evaluation.comparisons import Comparison, compare_all, detectable_difference, holm
from tandem.evaluation.intervals import paired_difference

PROBLEMS = [f"p{i}" for i in range(4)]


def flat(mean: float) -> dict[str, float]:
    """A run on four problems with this mean."""
    return dict(zip(PROBLEMS, (mean - 0.1, mean + 0.1, mean, mean), strict=True))


def by_seed(*means: float) -> dict[int, dict[str, float]]:
    return {seed: flat(mean) for seed, mean in enumerate(means)}


def only(found: list[Comparison]) -> Comparison:
    assert len(found) == 1
    return found[0]


def test_seeds_are_the_units_of_a_comparison_worked_by_hand() -> None:
    # Differences .05, .10, .15: mean .1, s = .05, standard error .0288675, t = 3.464102 with 2
    # degrees of freedom. There p = 1 − t/√(2 + t²) = 0.0741799, and t(0.975, 2) = 4.302653.
    scores = {"base": by_seed(0.3, 0.4, 0.5), "new": by_seed(0.35, 0.5, 0.65)}
    found = only(compare_all(scores, baseline="base"))
    assert (found.name, found.unit, found.units) == ("new", "seeds", 3)
    assert found.difference.mean == pytest.approx(0.1)
    assert found.difference.low == pytest.approx(0.1 - 4.302653 * 0.0288675, abs=1e-6)
    assert found.p == pytest.approx(1 - 3.464102 / math.sqrt(14), abs=1e-6)
    assert found.holm_p == found.p and found.verdict == "no difference shown"
    assert found.corrected == found.difference


def test_problems_are_the_units_of_single_runs() -> None:
    source = np.random.default_rng(0)
    before = {str(i): float(s) for i, s in enumerate(source.random(50))}
    gains = source.uniform(-0.2, 0.35, size=50)
    after = {
        key: float(np.clip(score + gain, 0, 1))
        for (key, score), gain in zip(before.items(), gains, strict=True)
    }
    found = only(compare_all({"base": before, "new": after}, baseline="base"))
    assert (found.unit, found.units, found.verdict) == ("problems", 50, "better")
    assert found.difference == paired_difference(after, before)
    # p is the error rate at which the interval begins to hold zero.
    touching = paired_difference(after, before, confidence=1 - found.p)
    assert touching.low == pytest.approx(0.0, abs=1e-6)
    one_seed = only(compare_all({"base": {7: before}, "new": {7: after}}, baseline="base"))
    assert one_seed == found


def test_exchanging_the_sides_exchanges_the_verdict() -> None:
    scores = {"a": by_seed(0.3, 0.31, 0.32), "b": by_seed(0.5, 0.52, 0.53)}
    up = only(compare_all(scores, baseline="a"))
    down = only(compare_all(scores, baseline="b"))
    assert (up.verdict, down.verdict) == ("better", "worse")
    assert down.difference.high == pytest.approx(-up.difference.low)
    assert (down.p, down.detectable) == (pytest.approx(up.p), pytest.approx(up.detectable))


def test_holm_matches_a_worked_example() -> None:
    # .005 · 4 = .02; .01 · 3 = .03; .03 · 2 = .06; .04 · 1 raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2] and holm([]) == []


def test_holm_rejects_all_that_bonferroni_rejects_and_none_alone_would_not() -> None:
    source = np.random.default_rng(1)
    for _ in range(200):
        p_values = source.random(5) ** 3
        adjusted = np.array(holm(p_values.tolist()))
        assert np.all(adjusted <= np.minimum(1, 5 * p_values)) and np.all(adjusted >= p_values)
        assert np.all(np.diff(adjusted[np.argsort(p_values)]) >= 0)


def noisy(
    source: np.random.Generator, means: Mapping[str, float], *, seeds: int
) -> dict[str, dict[int, dict[str, float]]]:
    """Four problems whose scores share a seed's luck; what is left of it is the method's own."""
    luck = source.normal(0.5, 0.05, size=seeds)
    return {
        name: {s: flat(luck[s] + mean + source.normal(0, 0.02)) for s in range(seeds)}
        for name, mean in means.items()
    }


def test_a_verdict_stands_exactly_where_the_corrected_interval_leaves_out_zero() -> None:
    source = np.random.default_rng(2)
    seen = set()
    for _ in range(150):
        means = {"base": 0.0, "a": 0.02, "b": -0.03, "c": 0.0, "d": 0.04}
        for found in compare_all(noisy(source, means, seeds=5), baseline="base"):
            low, high = found.corrected.low, found.corrected.high
            shown = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
            assert found.verdict == shown
            assert (found.holm_p <= 0.05) == (shown != "no difference shown")
            seen.add(shown)
    assert len(seen) == 3


def test_over_problems_too_the_interval_and_p_agree() -> None:
    source = np.random.default_rng(3)
    seen = set()
    for _ in range(40):
        hard = source.beta(0.3, 3, size=40)
        runs = {
            name: {str(i): float(s) for i, s in enumerate(source.binomial(8, law) / 8)}
            for name, law in (("base", hard), ("same", hard), ("up", np.minimum(1, hard * 2.5)))
        }
        for found in compare_all(runs, baseline="base"):
            shown = not found.corrected.low <= 0 <= found.corrected.high
            assert shown == (found.verdict != "no difference shown")
            assert found.unit == "problems" and 0 < found.p <= 1
            seen.add(shown)
    assert seen == {True, False}


def family_wise_error(tables: int, *, seeds: int, source_seed: int) -> tuple[float, float]:
    """Shares of tables of four equal methods with a verdict, and with any p of at most .05."""
    source = np.random.default_rng(source_seed)
    means = dict.fromkeys(["base", "a", "b", "c", "d"], 0.0)
    wrong, uncorrected = 0, 0
    for _ in range(tables):
        found = compare_all(noisy(source, means, seeds=seeds), baseline="base")
        wrong += any(one.verdict != "no difference shown" for one in found)
        uncorrected += any(one.p <= 0.05 for one in found)
    return wrong / tables, uncorrected / tables


@pytest.mark.parametrize("seeds", [2, 5])
def test_a_table_without_differences_shows_one_in_at_most_5_per_cent(seeds: int) -> None:
    # 3 standard errors of 5 % over 600 tables: 2.7 points.
    corrected, uncorrected = family_wise_error(600, seeds=seeds, source_seed=4)
    assert corrected < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)
    assert uncorrected > 0.1


@pytest.mark.slow
def test_the_error_over_a_table_in_many_tables() -> None:
    corrected, _ = family_wise_error(20_000, seeds=4, source_seed=5)
    assert 0.02 < corrected < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 20_000)


def coarse_error(tables: int) -> float:
    """Share of tables with a verdict: 3 equal methods, 2 seeds, 20 problems asked once."""
    source = np.random.default_rng(6)
    wrong = 0
    for _ in range(tables):
        scores = {
            name: {
                seed: {str(i): float(source.random() < 0.5) for i in range(20)} for seed in (0, 1)
            }
            for name in ("base", "a", "b")
        }
        found = compare_all(scores, baseline="base")
        wrong += any(one.verdict != "no difference shown" for one in found)
    return wrong / tables


def test_scores_in_coarse_steps_are_no_reason_for_a_verdict() -> None:
    """Seeds often show one and the same difference there, which t would take for certain."""
    assert coarse_error(400) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_seeds_with_one_difference_leave_it_to_the_problems() -> None:
    # 0.3 + 0.1 and 0.4 + 0.1 in floating point: equal but for rounding.
    scores = {"base": by_seed(0.3, 0.4), "new": by_seed(0.3 + 0.1, 0.4 + 0.1)}
    found = only(compare_all(scores, baseline="base"))
    assert (found.unit, found.units, found.verdict) == ("problems", 4, "no difference shown")
    same = only(compare_all({"a": by_seed(0.3, 0.4), "b": by_seed(0.3, 0.4)}, baseline="a"))
    assert (same.p, same.difference.mean) == (1.0, 0.0)
    assert same.difference.low < 0 < same.difference.high


@pytest.mark.parametrize(("units", "error"), [(3, 0.05), (10, 0.05), (10, 0.05 / 6)])
def test_the_detectable_difference_is_found_in_four_of_five_studies(
    units: int, error: float
) -> None:
    source = np.random.default_rng(units)
    spread, repeats = 0.03, 20_000
    effect = detectable_difference(spread / math.sqrt(units), units=units, error=error)
    drawn = source.normal(effect, spread, size=(repeats, units))
    t = drawn.mean(1) / (drawn.std(1, ddof=1) / math.sqrt(units))
    # The threshold by simulation under no difference, so that no t table enters twice.
    null = source.normal(0, spread, size=(200_000, units))
    threshold = np.quantile(
        np.abs(null.mean(1)) / (null.std(1, ddof=1) / math.sqrt(units)), 1 - error
    )
    assert float(np.mean(t > threshold)) == pytest.approx(0.8, abs=0.02)


def test_a_study_finds_its_detectable_difference_in_four_of_five_repeats() -> None:
    """Through the table: three methods, of which one is better by what could be detected."""
    source = np.random.default_rng(8)
    # The difference of two methods spreads by √2 · 0.02 from seed to seed.
    effect = detectable_difference(0.02 * math.sqrt(2) / math.sqrt(6), units=6, error=0.05 / 3)
    means = {"base": 0.0, "better": effect, "a": 0.0, "b": 0.0}
    hits, told = 0, []
    for _ in range(500):
        found = compare_all(noisy(source, means, seeds=6), baseline="base")
        hits += found[0].verdict == "better"
        told.append(found[0].detectable)
    # A later Holm step is easier: a little over four in five, in 500 repeats ± 5.4 points.
    assert 0.746 < hits / 500 < 0.87
    assert float(np.mean(told)) == pytest.approx(effect, rel=0.1)


def test_more_comparisons_or_fewer_seeds_detect_less() -> None:
    two = {"base": by_seed(0.3, 0.32, 0.34), "a": by_seed(0.4, 0.43, 0.41)}
    more = two | {"b": by_seed(0.31, 0.34, 0.33)}
    alone = only(compare_all(two, baseline="base"))
    among = compare_all(more, baseline="base")[0]
    assert among.detectable > alone.detectable and among.holm_p >= alone.holm_p
    assert among.p == alone.p and among.difference == alone.difference


def test_where_holm_stops_all_that_follow_keep_its_level() -> None:
    # p of .15, .19 and .53 (t = 2.31, 1.94, 0.76): the first needs .05/3, so Holm stops there.
    gains = {"a": (0.02, 0.08, 0.14), "b": (0.0, 0.06, 0.08), "c": (-0.02, 0.02, 0.04)}
    scores = {"base": by_seed(0.3, 0.3, 0.3)}
    scores |= {name: by_seed(*(0.3 + gain for gain in gained)) for name, gained in gains.items()}
    # t(1 − .05/6, 2) = 7.648864.
    for found in compare_all(scores, baseline="base"):
        spread = float(np.std(gains[found.name], ddof=1))
        reach = found.corrected.high - found.corrected.mean
        assert reach == pytest.approx(7.648864 * spread / math.sqrt(3), abs=1e-5)


def test_over_many_problems_the_detectable_difference_is_that_of_the_t_test() -> None:
    source = np.random.default_rng(9)
    before, after = source.uniform(0.2, 0.8, size=(2, 2_000))
    runs = {
        name: {str(i): float(s) for i, s in enumerate(side)}
        for name, side in (("base", before), ("new", after))
    }
    found = only(compare_all(runs, baseline="base"))
    # z(.975) + z(.8) = 2.801585 standard errors.
    expected = 2.801585 * float((after - before).std(ddof=1)) / math.sqrt(2_000)
    assert found.detectable == pytest.approx(expected, rel=0.01)
    runs["base"] = dict(reversed(runs["base"].items()))
    assert only(compare_all(runs, baseline="base")) == found


def test_seeds_and_problems_are_matched_by_name_not_by_order() -> None:
    base, new = by_seed(0.3, 0.4, 0.2), by_seed(0.35, 0.5, 0.3)
    turned = {seed: dict(reversed(run.items())) for seed, run in reversed(new.items())}
    found = only(compare_all({"base": base, "new": new}, baseline="base"))
    again = only(compare_all({"base": base, "new": turned}, baseline="base"))
    assert again.p == pytest.approx(found.p)
    assert again.difference.low == pytest.approx(found.difference.low)


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="'opd' is not among trb; name one of them"):
        compare_all({"trb": flat(0.5)}, baseline="opd")
    with pytest.raises(ValueError, match="nothing to compare 'opd' with"):
        compare_all({"opd": flat(0.5)}, baseline="opd")
    with pytest.raises(ValueError, match="trb ran with seeds 0, 1 and the baseline opd with 0:"):
        compare_all({"opd": by_seed(0.1), "trb": by_seed(0.1, 0.2)}, baseline="opd")
    other = {0: flat(0.1), 1: {**flat(0.2), "p9": 1.0}}
    with pytest.raises(ValueError, match="share 4 problems at seed 1 and differ in 1"):
        compare_all({"opd": by_seed(0.1, 0.2), "trb": other}, baseline="opd")
    with pytest.raises(ValueError, match="neither two seeds that differ nor two problems"):
        compare_all({"opd": {"a": 0.0}, "trb": {"a": 1.0}}, baseline="opd")
