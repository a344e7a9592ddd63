"""What holds at each step of a run: a pure function of the recipe and the step, so that resuming
within any phase costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.behaviours.base import Behaviour
from tandem.objectives.base import Objective
from tandem.training.optimizer import learning_rate
from tandem.training.sections import OptimizerSettings, PhaseSettings, TrainingSettings
from tandem.types import Clock


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps `start` to `end` − 1 of a run, which share a behaviour and an objective.

    restarts: the first prompts are asked again at its start. resets: AdamW and the learning
    rate's schedule begin anew there. place: its section in the recipe, "" for the recipe's own.
    """

    start: int
    end: int
    behaviour: Behaviour
    objective: Objective
    restarts: bool = False
    resets: bool = False
    place: str = ""

    @property
    def first_clock(self) -> Clock:
        return Clock(0, self.end - self.start)


@dataclass(frozen=True, slots=True)
class Moment:
    """What holds at one step.

    clock: counts from the phase's start. rate: the learning rate. prompts: which batch of prompts
    a roll-out here asks, counted from 0. resets: AdamW forgets its moments before this update.
    """

    behaviour: Behaviour
    objective: Objective
    clock: Clock
    rate: float
    prompts: int
    resets: bool


@dataclass(frozen=True, slots=True)
class Timeline:
    """A whole run, in order."""

    stretches: tuple[Stretch, ...]
    optimizer: OptimizerSettings
    updates_per_rollout: int

    def at(self, step: int) -> Moment:
        """What holds for the update that follows `step` finished ones."""
        now = next(s for s in self.stretches if s.start <= step < s.end)
        rate_from, rate_until = self.schedule_around(step)
        asked_from = max(s.start for s in self.stretches if s.start <= step and _restarts(s))
        return Moment(
            behaviour=now.behaviour,
            objective=now.objective,
            clock=Clock(step - now.start, now.end - now.start),
            rate=learning_rate(
                self.optimizer, step=step - rate_from, total_steps=rate_until - rate_from
            ),
            prompts=(step - asked_from) // self.updates_per_rollout,
            resets=now.resets and step == now.start,
        )

    def schedule_around(self, step: int) -> tuple[int, int]:
        """The steps over which the learning rate's schedule of this step goes: [start, end)."""
        begins = [0, *(s.start for s in self.stretches if s.resets), self.stretches[-1].end]
        return max(b for b in begins if b <= step), min(b for b in begins if b > step)

    @property
    def rollouts(self) -> int:
        """How many batches of responses are made in all."""
        return self.stretches[-1].end // self.updates_per_rollout

    def prompts_of(self, rollout: int) -> int:
        """Which batch of prompts the roll-out number `rollout` asks."""
        return self.at(rollout * self.updates_per_rollout).prompts

    @property
    def objectives(self) -> list[Objective]:
        """Each objective of the run once, in order."""
        found: list[Objective] = []
        for stretch in self.stretches:
            if stretch.objective not in found:
                found.append(stretch.objective)
        return found


def _restarts(stretch: Stretch) -> bool:
    return stretch.restarts or stretch.start == 0


def timeline(
    phases: Sequence[PhaseSettings],
    *,
    behaviour: Behaviour,
    objective: Objective,
    optimizer: OptimizerSettings,
    training: TrainingSettings,
) -> Timeline:
    """The run that these sections of a recipe describe.

    behaviour, objective: of the phases that name none, and of the steps after the last phase.
    Raises ValueError, in one sentence, where the phases do not fit the run or one another.
    """
    found: list[Stretch] = []
    start = 0
    for i, phase in enumerate(phases):
        end = _end_of(phase, start, training, place=f"phases.{i}", last=i == len(phases) - 1)
        found.append(
            Stretch(
                start=start,
                end=end,
                behaviour=phase.behaviour or behaviour,
                objective=phase.objective or objective,
                restarts=phase.prompts == "restart",
                # At the very start there is nothing to reset.
                resets=phase.optimizer == "reset" and start > 0,
                place=f"phases.{i}",
            )
        )
        start = end
    if start < training.steps:
        found.append(Stretch(start, training.steps, behaviour, objective))
    return Timeline(tuple(found), optimizer, training.updates_per_rollout)


def _end_of(
    phase: PhaseSettings, start: int, training: TrainingSettings, *, place: str, last: bool
) -> int:
    end, steps, each = phase.until_step, training.steps, training.updates_per_rollout
    if end is None:
        if not last:
            raise ValueError(f"{place} has no until_step; only the last phase may leave it out")
        if start == steps:
            raise ValueError(f"{place} begins at step {start}, where the run ends: leave it out")
        return steps
    if end <= start:
        raise ValueError(
            f"{place}.until_step is {end}, but the phase begins at step {start}: phases follow one "
            "another, each until a later step"
        )
    if end > steps:
        raise ValueError(
            f"{place}.until_step is {end}, but training.steps is {steps}: give "
            f"{place}.until_step={steps} or less, or training.steps={end} or more"
        )
    if end % each:
        raise ValueError(
            f"{place}.until_step is {end}, within a batch of responses that "
            f"training.updates_per_rollout ({each}) updates share: give a multiple of {each}"
        )
    return end


def check(line: Timeline) -> None:
    """Raise ValueError where a phase's parts do not fit together, naming the phase."""
    steps, each = line.stretches[-1].end, line.updates_per_rollout
    if steps % each:
        raise ValueError(
            f"training.steps is {steps}, but every batch of responses serves "
            f"training.updates_per_rollout ({each}) updates: give a multiple of {each}"
        )
    for stretch in line.stretches:
        try:
            stretch.objective.check(stretch.behaviour, updates_per_rollout=each)
        except ValueError as error:
            place = f"{stretch.place}: " if stretch.place else ""
            raise ValueError(f"{place}{error}") from None
        start, end = line.schedule_around(stretch.start)
        if line.optimizer.warmup_steps > end - start:
            raise ValueError(_too_long_a_warmup(line.optimizer.warmup_steps, start, end, steps))


def _too_long_a_warmup(warmup: int, start: int, end: int, steps: int) -> str:
    if (start, end) == (0, steps):
        there = f"training.steps ({steps})"
        fix = f"optimizer.warmup_steps={steps} or less, or training.steps={warmup} or more"
    else:
        fix = f"optimizer.warmup_steps={end - start} or less"
        there = f"the steps of its schedule ({end - start}, from step {start} to {end})"
    return (
        f"optimizer.warmup_steps is {warmup}, more than {there}, so the peak rate would never be "
        f"reached; give {fix}"
    )
