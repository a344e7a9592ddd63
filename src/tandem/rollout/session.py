"""The lock-step loop over the requests of one teacher.

Every round both models eat the same g tokens and 1 to g positions per row are settled; the laws
come from the behaviour. A student alone is the same loop with one lane and one token.

Shapes: B live rows, g tokens of a round, T tokens of the longest possible response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tandem.behaviours.base import Behaviour
from tandem.rollout.block import Rule, Start, advance
from tandem.rollout.given import record_given
from tandem.rollout.graphs import Runner, bucket_of_rows
from tandem.rollout.lane import Lane
from tandem.rollout.pace import Pace
from tandem.rollout.queue import Job, Queue, opening_of
from tandem.rollout.record import Columns, Recorder
from tandem.rollout.tally import Tally
from tandem.types import Clock, Ended, Rollout, Sampling, SignalSpec, limit_of

BASE, POSITION = 0, 1


@dataclass(slots=True)
class Row:
    """A live row on the host. slot: where its record and its draws are kept; its place in the
    caches may change when the batch shrinks, that one does not. limit: its longest response."""

    job: Job
    slot: int
    limit: int
    ids: list[int] = field(default_factory=list)
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """What all responses of one call have in common; see `Engine.generate`."""

    behaviour: Behaviour
    clock: Clock
    sampling: Sampling
    seed: int
    record: SignalSpec
    policy_version: int


class Session:
    """Runs jobs through `slots` rows until all are done; each result goes to `deliver`.

    widest: the most drafts of a round. What is drafted beyond an end is fed like anything else, so
    the lanes' caches have to hold `widest` − 1 tokens more than any response needs.
    runner: does rounds of fixed shapes; without one they fit the rows that are live.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        lanes: list[Lane],
        terms: Terms,
        *,
        slots: int,
        pace: Pace,
        widest: int,
        deliver: Callable[[int, Rollout], None],
        runner: Runner | None = None,
    ) -> None:
        self.lanes, self.student, self.deliver = lanes, lanes[0].speaker, deliver
        self.rule = Rule(terms.behaviour, terms.clock, terms.sampling.temperature)
        self.policy_version, self.pace, self.tally = terms.policy_version, pace, Tally()
        # T: of any response; one may have a shorter limit of its own.
        self.limit = terms.sampling.max_new_tokens
        vocabulary, device = self.student.vocabulary_size, self.student.device
        self.recorder = Recorder(
            terms.record, slots=slots, length=self.limit, vocabulary=vocabulary
        )
        self.kinds = self.rule.draws(taught=len(lanes) > 1)
        self.queue = Queue(
            jobs, lanes, kinds=self.kinds, seed=terms.seed, length=self.limit, ahead=slots
        )
        # Tables over the places slot·T + position, and one more for positions beyond T.
        self.nowhere = slots * self.limit
        self.draws = torch.full((len(self.kinds), self.nowhere + 1), 0.5, device=device)
        # Per row: where its record begins (slot·T), and the position of its next token.
        self.state = torch.zeros(2, slots, dtype=torch.int64, device=device)
        self.steps = torch.arange(widest, device=device)
        # For rounds of fixed shapes: how many of the first rows hold a response.
        self.runner = runner
        self.live = torch.zeros((), dtype=torch.int64, device=device)
        self.numbers = torch.arange(slots, device=device)
        self.rows: list[Row] = []
        self.slots = slots
        # Tokens and finished responses that nobody was told of.
        self.news = [0, 0]

    def run(self, progress: Callable[[int, int], None]) -> None:
        """The loop: draft and settle, record, note; then let the finished go and others come.

        progress is told of new tokens and newly finished responses once per round.
        """
        self.open()
        self._tell(progress)
        while self.rows:
            self.round(self._width())
            self._tell(progress)

    def open(self) -> None:
        """Start as many jobs as there are slots."""
        self._admit(list(range(self.slots)), list(range(self.slots)))
        self._retire_ended()

    def _tell(self, progress: Callable[[int, int], None]) -> None:
        if any(self.news):
            progress(*self.news)
            self.news = [0, 0]

    def _width(self) -> int:
        """Drafts of the next round."""
        return self.pace.choose([row.limit - len(row.ids) for row in self.rows], self.tally)

    def round(self, width: int) -> None:
        """One round of `width` drafts."""
        live = len(self.rows)
        # The one transfer of a round: which tokens they are decides who ends.
        table = self._on_device(live, width)[:live].tolist()
        stayed = [row.pop() for row in table]
        counts = [min(kept + 1, width) for kept in stayed]
        for lane in self.lanes:
            lane.note(counts)
        drawn = kept = 0
        for row, ids, count, staying in zip(self.rows, table, counts, stayed, strict=True):
            before = len(row.ids)
            self._take(row, ids[:count])
            taken = len(row.ids) - before
            drawn, kept = drawn + taken, kept + min(taken, staying)
        self._count(width, live, tokens=drawn, stayed=kept)
        self._retire_ended()

    def _on_device(self, live: int, width: int) -> Tensor:
        """The round itself; [B, g + 1]: the ids of each row, and how many drafts stayed."""
        if self.runner is None:
            return self._advance(live, width, (None,) * len(self.lanes))
        rows = bucket_of_rows(live, self.slots)
        used = tuple(lane.bucket(width) for lane in self.lanes)
        self.live.fill_(live)
        return self.runner((rows, width, used), lambda: self._advance(rows, width, used))

    def _advance(self, rows: int, width: int, used: tuple[int | None, ...]) -> Tensor:
        """Draft, score, record and settle on `rows` rows, of which the first are live."""
        base_B1, position_B1 = self.state[:, :rows, None]
        position_BG = position_B1 + self.steps[:width]
        there = position_BG < self.limit
        if self.runner is not None:
            there = there & (self.numbers[:rows, None] < self.live)
        place_BG = torch.where(there, base_B1 + position_BG, self.nowhere)
        block = advance(self.lanes, self.rule, self._start(position_BG, place_BG, used))
        self.recorder.write(place_BG, block.ids, block.scores)
        count_B = block.counts
        if self.runner is not None:
            # Rows without a response stay where they are, in their first slots.
            count_B = count_B * (self.numbers[:rows] < self.live)
        last_B = block.ids.gather(1, (block.counts - 1)[:, None])[:, 0]
        for lane in self.lanes:
            lane.settle(last_B, count_B)
        self.state[POSITION, :rows] += count_B
        return torch.cat([block.ids, block.stayed[:, None]], 1)

    def _start(self, position_BG: Tensor, place_BG: Tensor, used: tuple[int | None, ...]) -> Start:
        """What the round may use at these positions and places."""
        found = self.draws.index_select(1, place_BG.flatten()).view(-1, *place_BG.shape)
        draws = dict(zip(self.kinds, found, strict=True))
        return Start(position_BG, draws, used)

    def _take(self, row: Row, ids: list[int]) -> None:
        """Append settled or given tokens to a response, up to its end."""
        end_id, before = self.student.end_id, len(row.ids)
        row.ids += ids[: row.limit - before]
        if end_id in row.ids[before:]:
            del row.ids[row.ids.index(end_id, before) + 1 :]
            row.ended = True
        row.ended |= len(row.ids) == row.limit
        self.news[0] += len(row.ids) - before

    def _count(self, width: int, live: int, *, tokens: int, stayed: int) -> None:
        tally = self.tally
        tally.tokens += tokens
        tally.rounds += 1
        tally.row_rounds += live
        tally.slot_rounds += self.slots
        tally.student_tokens += live * width
        if len(self.lanes) > 1:
            tally.teacher_rows += live
        # Drafts beyond an end are of no response, and say nothing of how well the two agree.
        tally.tried += tokens
        tally.stayed += stayed

    def _retire_ended(self) -> None:
        """Let the finished go and others come, some of whom may be given whole."""
        while done := [i for i, row in enumerate(self.rows) if row.ended]:
            self.news[1] += len(done)
            self._retire(done)

    def _retire(self, done: list[int]) -> None:
        """Deliver finished rows, give their places to waiting jobs, close the gaps that remain."""
        rows = [self.rows[i] for i in done]
        slots = [row.slot for row in rows]
        records = self.recorder.read(slots, [len(row.ids) for row in rows])
        for row, record in zip(rows, records, strict=True):
            self.deliver(row.job.index, self._rollout(row, record))
        holes = done[self._admit(done, slots) :]
        if holes:
            self._compact(holes)

    def _admit(self, places: list[int], slots: list[int]) -> int:
        """Start waiting jobs in these rows, as many as there are; how many were started."""
        started = 0
        while started < len(places):
            admission = self.queue.take(len(places) - started)
            if admission is None:
                break
            count = len(admission.jobs)
            here, there = places[started : started + count], slots[started : started + count]
            openings = [opening_of(job.request, len(self.lanes)) for job in admission.jobs]
            for k, lane in enumerate(self.lanes):
                lane.admit(here, [opening[k] for opening in openings], admission.states[k])
            device = self.state.device
            table = self.draws[:, :-1].view(len(self.kinds), self.slots, self.limit)
            slot_B = torch.tensor(there, device=device)
            table.index_copy_(1, slot_B, admission.draws.transpose(0, 1))
            given = [len(job.request.forced_ids) for job in admission.jobs]
            begun = torch.tensor([[slot * self.limit for slot in there], given], device=device)
            self.state.index_copy_(1, torch.tensor(here, device=device), begun)
            if admission.hidden is not None:
                record_given(
                    admission.jobs,
                    there,
                    admission.hidden,
                    lanes=self.lanes,
                    rule=self.rule,
                    recorder=self.recorder,
                    length=self.limit,
                )
            for place, slot, job in zip(here, there, admission.jobs, strict=True):
                row = Row(job, slot, limit_of(job.request, self.limit))
                self._take(row, list(job.request.forced_ids))
                if place == len(self.rows):
                    self.rows.append(row)
                else:
                    self.rows[place] = row
            started += count
        return started

    def _compact(self, holes: list[int]) -> None:
        """Move rows from the end of the batch into its holes, so that live rows come first."""
        live = len(self.rows) - len(holes)
        gone = set(holes)
        source = [i for i in range(live, len(self.rows)) if i not in gone]
        target = [i for i in holes if i < live]
        for lane in self.lanes:
            lane.compact(source, target, live=live)
        if source:
            here = torch.tensor([source, target], device=self.state.device)
            self.state.index_copy_(1, here[1], self.state.index_select(1, here[0]))
        for old, new in zip(source, target, strict=True):
            self.rows[new] = self.rows[old]
        del self.rows[live:]

    def _rollout(self, row: Row, record: Columns) -> Rollout:
        """The finished response with its record. Its tensors are ordinary ones: they may meet
        autograd."""
        request, count = row.job.request, len(row.ids)
        ended: Ended = "eos" if row.ids[-1] == self.student.end_id else "length"
        forced = min(len(request.forced_ids), count)
        own = self.rule.behaviour.author(self.rule.clock)
        with torch.inference_mode(False):
            ids = torch.tensor(row.ids)
            author = torch.tensor([request.forced_author] * forced + [own] * (count - forced))
        stats = {k.removeprefix("stats/"): v for k, v in record.items() if k.startswith("stats/")}
        return Rollout(
            request=request,
            ids=ids,
            behaviour_logp=record["behaviour_logp"],
            student_logp=record["student_logp"],
            teacher_logp=record.get("sampled_logp"),
            author=author,
            policy_version=self.policy_version,
            ended=ended,
            stats=stats,
            signal=self.recorder.signal(record),
            student_entropy=record.get("student_entropy"),
        )
