"""AUROC of right against wrong completions: pair counts, invariances, coverage by problems."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tandem.evaluation.estimates import auroc
from tandem.evaluation.intervals import clustered_interval, wilson

Scored = dict[str, list[tuple[float, bool]]]


def pair_count(scored: Scored) -> float:
    flat = list(itertools.chain.from_iterable(scored.values()))
    right = [score for score, correct in flat if correct]
    wrong = [score for score, correct in flat if not correct]
    won = [(r > w) + 0.5 * (r == w) for r in right for w in wrong]
    return sum(won) / len(won)


def drawn(source: np.random.Generator, *, problems: int, samples: int, shift: float) -> Scored:
    """Scores with a part of the problem's own, shifted for right ones; easy problems score high."""
    scored: Scored = {}
    for i in range(problems):
        share = source.beta(1, 2)
        own = source.normal(2 * share, 0.5)
        right = source.random(samples) < share
        scores = own + shift * right + source.normal(size=samples)
        scored[str(i)] = [(float(s), bool(r)) for s, r in zip(scores, right, strict=True)]
    return scored


def test_auroc_and_its_variance_are_worked_by_hand() -> None:
    # Right 3 and 1, wrong 2 and 1: pairs 1, 1, 0, 1/2, area 5/8. Placements of the right: 1, 1/4;
    # of the wrong: 1/2, 3/4. Problem a holds (3, right), (2, wrong), problem b the other two, so
    # their sums of (placement − 5/8)/2 are (3/8 − 1/8)/2 = 1/8 and −1/8: variance 2/64 · 2.
    scored = {"a": [(3.0, True), (2.0, False)], "b": [(1.0, True), (1.0, False)]}
    assert auroc(scored) == clustered_interval(0.625, variance=1 / 16, units=2, error=1 - 0.95)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    source = np.random.default_rng(0)
    for _ in range(30):
        scored = drawn(source, problems=8, samples=5, shift=1.0)
        coarse = {p: [(float(round(s)), r) for s, r in given] for p, given in scored.items()}
        for given in (scored, coarse):
            assert auroc(given).mean == pytest.approx(pair_count(given))


def test_only_the_order_of_scores_and_problems_kept_together_matter() -> None:
    scored = drawn(np.random.default_rng(1), problems=20, samples=4, shift=1.0)
    found = auroc(scored)
    bent = {p: [(math.exp(s) - 9, r) for s, r in given] for p, given in scored.items()}
    turned = {p: given[::-1] for p, given in reversed(scored.items())}
    exchanged = {p: [(-s, r) for s, r in given] for p, given in scored.items()}
    for same in (auroc(bent), auroc(turned)):
        assert (same.mean, same.low, same.high) == pytest.approx(
            (found.mean, found.low, found.high)
        )
    mirrored = auroc(exchanged)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_copies_of_one_completion_are_no_evidence() -> None:
    """Each completion ten times over: the interval stays, as problems are what counts."""
    scored = drawn(np.random.default_rng(2), problems=20, samples=4, shift=1.0)
    found, again = auroc(scored), auroc({p: given * 10 for p, given in scored.items()})
    assert (again.mean, again.low) == (pytest.approx(found.mean), pytest.approx(found.low))


def test_perfect_order_does_not_claim_certainty() -> None:
    scored = {str(i): [(1.0, True), (0.0, False)] for i in range(20)}
    found = auroc(scored)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low < 0.9
    single = {"a": [(1.0, True)], "b": [(0.0, False)], "c": [(0.5, False)]}
    assert auroc(single) == wilson(1.0, 1)


@pytest.mark.parametrize(("problems", "samples", "shift"), [(30, 16, 0.5), (100, 4, 1.5)])
def test_the_interval_covers(problems: int, samples: int, shift: float) -> None:
    source = np.random.default_rng(problems)
    truth = auroc(drawn(source, problems=20_000, samples=samples, shift=shift)).mean
    repeats, held = 300, 0
    for _ in range(repeats):
        found = auroc(drawn(source, problems=problems, samples=samples, shift=shift))
        held += found.low <= truth <= found.high
    assert held / repeats > 0.93 - 3 * math.sqrt(0.93 * 0.07 / repeats)


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="needs right and wrong completions, but 2 of 2 are right"):
        auroc({"a": [(0.1, True), (0.2, True)]})
    with pytest.raises(ValueError, match="but 0 of 0 are right"):
        auroc({})
    with pytest.raises(ValueError, match="needs finite scores, but 1 of 2 are not"):
        auroc({"a": [(-math.inf, False), (0.2, True)]})
