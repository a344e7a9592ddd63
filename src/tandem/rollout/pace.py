"""How many tokens a round should draft: a fixed number, or the one that pays best.

A round of g drafts over B rows costs what a table says (measured once, and kept with the run, so
that a resumed run takes the same blocks), and settles (1 − α^g)/(1 − α) tokens per row where α is
the chance that a draft stays; a row with fewer tokens left than g settles no more than those. α is
estimated from what was judged so far, in this call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tandem.rollout.tally import Tally

Block = int | Literal["auto"]
# Candidates of `auto`. Beyond 8 even nearly certain drafts hardly pay.
WIDTHS = (1, 2, 3, 4, 6, 8)
# What is believed before anything was judged: as many drafts as this, of which so many stay.
PRIOR_TRIED, PRIOR_STAYED = 32.0, 28.0
# Tokens of a round of a student alone where rounds are replayed: the host asks that much less
# often, and what is drawn beyond an end is a few tokens per response.
REPLAYED = 4
# What the distributions of one round may take: a batch so wide gains nothing from longer blocks.
SCRATCH_BYTES = 2**31
# fp32 distributions of one draft that live at once: the student's, the teacher's, the law, and two
# while it is solved for.
DISTRIBUTIONS = 5


@dataclass(frozen=True, slots=True)
class CostTable:
    """Seconds of a round, by live rows and drafts: seconds[i][j] for rows[i] and widths[j]."""

    rows: tuple[int, ...]
    widths: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]

    def at(self, rows: int, width: int) -> float:
        """Linear between the measured numbers of rows and of drafts; at the nearest one outside."""
        columns = [
            float(np.interp(rows, self.rows, [line[j] for line in self.seconds]))
            for j in range(len(self.widths))
        ]
        return float(np.interp(width, self.widths, columns))


class Pace:
    """Chooses g for each round. costs: needed where block is `auto`. row_bytes: what the
    distributions of one draft of one row take; a round's stay below SCRATCH_BYTES."""

    def __init__(self, block: Block, costs: CostTable | None, *, row_bytes: int) -> None:
        assert block != "auto" or costs is not None, "auto is chosen from a table of costs"
        self._block: Block = block
        self._costs, self._row_bytes = costs, row_bytes
        # Seconds by width, for each number of rows there was: a round is some milliseconds.
        self._seconds: dict[int, list[float]] = {}

    def choose(self, left: Sequence[int], so_far: Tally) -> int:
        """Drafts for this round, at least 1. left: tokens that each live response may still get."""
        rows = len(left)
        fits = min(max(left), fitting(rows, self._row_bytes))
        if self._block != "auto":
            return max(1, min(self._block, fits))
        stays = (PRIOR_STAYED + so_far.stayed) / (PRIOR_TRIED + so_far.tried)
        short = [n for n in left if n < max(WIDTHS)]
        seconds = self._seconds_of(rows)

        def speed(column: int) -> float:
            width = WIDTHS[column]
            settled = (rows - len(short)) * expected_tokens(stays, width)
            settled += sum(expected_tokens(stays, min(width, n)) for n in short)
            return settled / seconds[column]

        columns = [i for i, width in enumerate(WIDTHS) if width <= fits]
        return WIDTHS[max(columns, key=speed)]

    def _seconds_of(self, rows: int) -> list[float]:
        costs = self._costs
        assert costs is not None
        if rows not in self._seconds:
            self._seconds[rows] = [costs.at(rows, width) for width in WIDTHS]
        return self._seconds[rows]


def fitting(rows: int, row_bytes: int) -> int:
    """Drafts whose distributions fit in the scratch space, for so many rows; at least 1."""
    return max(1, SCRATCH_BYTES // (rows * row_bytes))


def widest(block: Block, *, alone: bool, replayed: bool) -> int:
    """The most drafts a round may have. alone: no teacher looks. replayed: rounds are graphs."""
    if alone:
        return REPLAYED if replayed else 1
    return max(WIDTHS) if block == "auto" else block


def expected_tokens(stays: float, width: int) -> float:
    """Tokens of a row that a round of `width` drafts settles, each staying with chance `stays`."""
    return float(width) if stays >= 1.0 else (1.0 - stays**width) / (1.0 - stays)
