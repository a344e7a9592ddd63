"""How many tokens a round should draft: a fixed number, or the one that pays best.

A round of g drafts over B rows costs what a table says (measured once, and kept with the run, so
that a resumed run takes the same blocks), and settles (1 − α^g)/(1 − α) tokens per row where α is
the chance that a draft stays. α is estimated from what was judged so far, in this call.
"""

from __future__ import annotations

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

    def choose(self, rows: int, so_far: Tally, *, left: int) -> int:
        """Drafts for this round, at least 1. left: tokens that the longest response may still
        get."""
        fits = min(left, fitting(rows, self._row_bytes))
        if self._block != "auto":
            return max(1, min(self._block, fits))
        costs = self._costs
        assert costs is not None
        stays = (PRIOR_STAYED + so_far.stayed) / (PRIOR_TRIED + so_far.tried)
        widths = [g for g in WIDTHS if g <= fits] or [1]
        return max(widths, key=lambda g: expected_tokens(stays, g) / costs.at(rows, g))


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
