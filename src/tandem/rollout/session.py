"""The lock-step loop over the requests of one teacher.

Every round both models eat the same tokens and one position per row is settled; the laws
come from the behaviour. A student alone is the same loop with one lane.
Blocks of g tokens change `_propose`, which then drafts, and how many tokens `settle` accepts.

Shapes: B live rows, V shared vocabulary, T tokens of the longest possible response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tandem.behaviours.base import Behaviour
from tandem.core.sampling import sample
from tandem.rollout.lane import Lane
from tandem.rollout.queue import Job, Queue, prompts_of
from tandem.rollout.record import Columns, Recorder, Scores
from tandem.types import Clock, Ended, Rollout, Sampling, SignalSpec

PLACE, POSITION = 0, 1


@dataclass(slots=True)
class Row:
    """A live row on the host. slot: where its record and its draws are kept; its place in the
    caches may change when the batch shrinks, that one does not."""

    job: Job
    slot: int
    ids: list[int] = field(default_factory=list)


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
    """Runs jobs through `slots` rows until all are done; each result goes to `deliver`."""

    def __init__(
        self,
        jobs: Sequence[Job],
        lanes: list[Lane],
        terms: Terms,
        *,
        slots: int,
        deliver: Callable[[int, Rollout], None],
    ) -> None:
        self.lanes, self.student, self.deliver = lanes, lanes[0].speaker, deliver
        self.behaviour, self.clock, self.sampling = terms.behaviour, terms.clock, terms.sampling
        self.policy_version = terms.policy_version
        length, vocabulary = terms.sampling.max_new_tokens, self.student.vocabulary_size
        self.recorder = Recorder(terms.record, slots=slots, length=length, vocabulary=vocabulary)
        self.queue = Queue(jobs, lanes, seed=terms.seed, length=length, ahead=slots)
        device = self.student.device
        self.draws_ST = torch.zeros(slots, length, device=device)
        # −1 where the response is free; and for how many rounds some row may not be.
        self.forces = any(job.request.forced_ids for job in jobs)
        shape = (slots, length if self.forces else 0)
        self.forced_ST = torch.full(shape, -1, dtype=torch.int64, device=device)
        self.forced_rounds = 0
        # Per row: where this token's record goes (slot·T + position), and its position.
        self.state = torch.zeros(2, slots, dtype=torch.int64, device=device)
        self.rows: list[Row] = []
        self.slots = slots

    def run(self, progress: Callable[[int, int], None]) -> None:
        """The loop: score, draw, record, settle; then let the finished go and others come.

        progress is told of new tokens and newly finished responses once per round.
        """
        end_id, longest = self.student.end_id, self.sampling.max_new_tokens
        self._admit(list(range(self.slots)), list(range(self.slots)))
        while self.rows:
            live = len(self.rows)
            scores = self._propose()
            ids_B = self._draw(scores.law_logp)
            self.recorder.write(self.state[PLACE, :live], ids_B, scores)
            for lane in self.lanes:
                lane.settle(ids_B, 1)
            self.state[:, :live] += 1
            # The one transfer of a round: which tokens they are decides who ends.
            done: list[int] = []
            for i, (row, token) in enumerate(zip(self.rows, ids_B.tolist(), strict=True)):
                row.ids.append(token)
                if token == end_id or len(row.ids) == longest:
                    done.append(i)
            if done:
                self._retire(done)
            progress(live, len(done))

    def _propose(self) -> Scores:
        """Feed every lane its last tokens; the law of the next one at each prefix."""
        hidden = [lane.feed(lane.next_tokens)[:, -1] for lane in self.lanes]
        logp = [
            torch.log_softmax(lane.speaker.logits(state), -1)
            for lane, state in zip(self.lanes, hidden, strict=True)
        ]
        taught = len(self.lanes) > 1
        law = self.behaviour(
            student_logp=logp[0],
            teacher_logp=logp[1] if taught else None,
            clock=self.clock,
            position=self.state[POSITION, : len(self.rows)],
        )
        return Scores(
            law_logp=tempered(law.logp, self.sampling.temperature),
            student_logp=logp[0],
            teacher_logp=logp[1] if taught else None,
            teacher_hidden=hidden[1] if taught else None,
            stats=law.stats,
        )

    def _draw(self, law_logp: Tensor) -> Tensor:
        """The next token of each row [B]: its forced one, or a draw from the law [B, V]."""
        live = len(self.rows)
        place_B = self.state[PLACE, :live]
        ids_B = sample(law_logp, self.draws_ST.view(-1).index_select(0, place_B))
        if self.forced_rounds > 0:
            self.forced_rounds -= 1
            forced_B = self.forced_ST.view(-1).index_select(0, place_B)
            ids_B = torch.where(forced_B >= 0, forced_B, ids_B)
        return ids_B

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
            prompts = [prompts_of(job.request, len(self.lanes)) for job in admission.jobs]
            for k, lane in enumerate(self.lanes):
                lane.admit(here, [prompt[k] for prompt in prompts], admission.prefilled[k])
            device = self.state.device
            slot_B = torch.tensor(there, device=device)
            self.draws_ST.index_copy_(0, slot_B, admission.draws)
            place = [[slot * self.sampling.max_new_tokens for slot in there], [0] * count]
            self.state.index_copy_(
                1, torch.tensor(here, device=device), torch.tensor(place, device=device)
            )
            if self.forces:
                forced = [job.request.forced_ids for job in admission.jobs]
                table = [ids + (-1,) * (self.sampling.max_new_tokens - len(ids)) for ids in forced]
                self.forced_ST.index_copy_(0, slot_B, torch.tensor(table, device=device))
                self.forced_rounds = max(self.forced_rounds, *map(len, forced))
            for place, slot, job in zip(here, there, admission.jobs, strict=True):
                row = Row(job, slot)
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
        own = self.behaviour.author(self.clock)
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


def tempered(logp: Tensor, temperature: float) -> Tensor:
    """The law sharpened to p^(1/temperature), renormalised; at 0 all mass on its likeliest id."""
    if temperature == 1.0:
        return logp
    if temperature == 0.0:
        certain = torch.full_like(logp, -torch.inf)
        return certain.scatter_(-1, logp.argmax(-1, keepdim=True), 0.0)
    return torch.log_softmax(logp / temperature, -1)
