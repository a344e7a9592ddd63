"""What a round costs on this machine, measured once and kept.

A file of a run keeps the tables: the blocks that `auto` chooses are then the same when the run goes
on, and with them every rounding error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter

from tandem.rollout.graphs import Runner
from tandem.rollout.lane import Lane
from tandem.rollout.pace import CostTable, Pace, fitting
from tandem.rollout.protocol import SpeakerLike
from tandem.rollout.queue import Job
from tandem.rollout.session import Session, Terms
from tandem.types import Request, Sampling

WIDTHS = (1, 2, 4, 8)
# Timed rounds of each size, after one that is not; the quickest counts. Short ones are timed more
# often, until all sizes of so many rows together took ENOUGH seconds: a moment in which the machine
# is busy would decide all blocks.
ROUNDS, MOST_ROUNDS, ENOUGH = 3, 9, 0.4


class CostBook:
    """Tables by teacher; with a path, in that JSON file from the first one on.

    Raises ValueError for a file that holds something else.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._tables: dict[str, CostTable] = {}
        if path is not None and path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                self._tables = {name: _table(**parts) for name, parts in found.items()}
            except (ValueError, TypeError, AttributeError):
                raise ValueError(
                    f"{path} holds no table of decoding costs; delete it, and they are measured "
                    "again"
                ) from None

    def __contains__(self, teacher: str) -> bool:
        return teacher in self._tables

    def __getitem__(self, teacher: str) -> CostTable:
        return self._tables[teacher]

    def keep(self, teacher: str, table: CostTable) -> None:
        self._tables[teacher] = table
        if self._path is not None:
            data = {name: asdict(one) for name, one in self._tables.items()}
            # All of it or nothing: a run that is killed here goes on with a table, or measures.
            beside = self._path.with_name(f".{self._path.name}.partial")
            beside.write_text(json.dumps(data, indent=2), encoding="utf-8")
            beside.replace(self._path)


def measure_costs(
    speakers: Sequence[SpeakerLike],
    terms: Terms,
    *,
    slots: int,
    row_bytes: int,
    runner: Callable[[], Runner | None] = lambda: None,
    now: Callable[[], float] = perf_counter,
) -> CostTable:
    """Seconds of a round under these terms, from short contexts, for 1 to
    `slots` rows and 1 to 8 drafts, as far as the engine would go. row_bytes: see `Pace`. Call it
    where the engine would decode."""
    rows = sorted({min(4**k, slots) for k in range(8)})

    def line(live: int) -> tuple[float, ...]:
        fits = [width for width in WIDTHS if width <= fitting(live, row_bytes)]
        # One runner for all: graphs of other widths have other keys, and share its memory.
        shared = runner()
        sessions = [_opened(speakers, terms, live, width, shared) for width in fits]
        found = _quickest(sessions, fits, now)
        for width in WIDTHS[len(fits) :]:
            # Never chosen; only there so that there is something to interpolate towards.
            found.append(found[-1] * width / WIDTHS[len(found) - 1])
        return tuple(found)

    return CostTable(tuple(rows), WIDTHS, tuple(line(live) for live in rows))


def _quickest(
    sessions: Sequence[Session], widths: Sequence[int], now: Callable[[], float]
) -> list[float]:
    """Seconds of a round of each width, taken in turn: what else the machine does then falls on all
    of them, and their ratios are what blocks are chosen by."""
    # A graph is replayed from the third time on.
    timed = ROUNDS if sessions[0].runner is None else ROUNDS + 2
    taken: list[list[float]] = [[] for _ in widths]
    while len(taken[0]) < timed or (sum(map(sum, taken)) < ENOUGH and len(taken[0]) < MOST_ROUNDS):
        for session, width, spent in zip(sessions, widths, taken, strict=True):
            start = now()
            session.round(width)
            spent.append(now() - start)
    return [min(spent) for spent in taken]


def _opened(
    speakers: Sequence[SpeakerLike], terms: Terms, live: int, width: int, runner: Runner | None
) -> Session:
    """A session of `live` rows after a first round, with work for all the timed ones."""
    # Prompts of one token need no prefill, and rows that end are replaced at once.
    rounds = MOST_ROUNDS + 1
    prompt = ((speakers[0].end_id + 1) % speakers[0].vocabulary_size,)
    jobs = [Job(i, Request(i, prompt, prompt)) for i in range(live * (rounds * width + 1))]
    limit = min(rounds * width, terms.sampling.max_new_tokens)
    short = replace(terms, sampling=Sampling(limit, terms.sampling.temperature))
    lanes = [Lane(s, rows=live, capacity=limit + width) for s in speakers]
    session = Session(
        jobs,
        lanes,
        short,
        slots=live,
        pace=Pace(width, None, row_bytes=1),
        widest=width,
        deliver=lambda index, rollout: None,
        runner=runner,
    )
    session.open()
    session.round(width)
    return session


def _table(
    rows: Sequence[int], widths: Sequence[int], seconds: Sequence[Sequence[float]]
) -> CostTable:
    lines = tuple(tuple(float(x) for x in line) for line in seconds)
    if not rows or not widths or len(lines) != len(rows):
        raise ValueError("a table of another shape")
    if any(len(line) != len(widths) or not all(0 < x < math.inf for x in line) for line in lines):
        raise ValueError("seconds that are none")
    if any(list(axis) != sorted(set(axis)) for axis in (rows, widths)):
        raise ValueError("an axis that does not rise")
    return CostTable(tuple(map(int, rows)), tuple(map(int, widths)), lines)
