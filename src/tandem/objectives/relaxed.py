"""REOPOLD: a policy gradient whose reward has a floor, on the tokens that a stage selects.

Shapes: N tokens, V shared vocabulary, n prefixes.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tandem.core.divergences import entropy
from tandem.core.selection import top_share
from tandem.objectives.base import Plan, Prefixes, StepTokens
from tandem.objectives.sampled import drawn
from tandem.objectives.shaped import Shaped
from tandem.types import Clock, SignalSpec

DEFAULT_TOP_FRACTION = 0.2


class Relaxed(Shaped):
    """The policy gradient of max(log ρ, log(λ/(1−λ))), ρ = q/p, in one stage or two (REOPOLD).

    stages one is that floor alone. With two, exploration keeps the tokens whose log ρ, unclipped,
    is at least the floor; refinement, from `switch_step` on, keeps those with the highest student
    entropies of the whole step (ties at the threshold all in). The loss is the mean over the tokens
    that are kept.

    Both selections are facts of the rollout: ρ there has the probability that the student gave the
    token when it was drawn. So they cost no further pass, and stay the same where several updates
    use a rollout (ours); the reward itself follows the current student.
    """

    equation = "maximise E_p[max(log ρ, log(λ/(1−λ)))] over the selected tokens, ρ = q/p"
    source = "REOPOLD, arXiv 2603.11137"
    value_name = "relaxed_kl"

    kind: Literal["relaxed"] = "relaxed"
    mixing: Annotated[
        float,
        Field(
            description="λ in [0, 0.5], which sets the floor log(λ/(1−λ)) of the reward: −1.386 "
            "at 0.2; 0 is no floor"
        ),
    ] = 0.2
    stages: Annotated[
        Literal["one", "two"],
        Field(description="one: the floor alone; two: exploration, then refinement"),
    ] = "two"
    switch_step: Annotated[
        int | None,
        Field(
            description="optimiser step at which refinement begins; unstated there: left out, "
            "half of the run (ours)"
        ),
    ] = None
    top_fraction: Annotated[
        float | None,
        Field(
            description="β, the share of tokens that refinement keeps; the paper has 0.2 to 0.5, "
            "and 0.2 is ours"
        ),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        if given.get("stages", cls.model_fields["stages"].default) == "two":
            given.setdefault("top_fraction", DEFAULT_TOP_FRACTION)
        return given

    def refused(self) -> str | None:
        if not 0.0 <= self.mixing <= 0.5:
            return (
                f"mixing is {self.mixing}, but λ lies in [0, 0.5]: beyond, the floor "
                "log(λ/(1−λ)) would reward tokens that the teacher finds less likely than the "
                "student: give 0.2, as published."
            )
        return self._refused_stages() or super().refused()

    def _refused_stages(self) -> str | None:
        if self.stages == "one" and self.switch_step is not None:
            return (
                f"switch_step is {self.switch_step}, but stages one has no selection to switch: "
                "remove switch_step, or use stages two."
            )
        if self.stages == "one" and self.top_fraction is not None:
            return (
                f"top_fraction is {self.top_fraction}, but stages one selects nothing: remove "
                "top_fraction, or use stages two."
            )
        if self.stages == "one":
            return None
        if self.top_fraction is None or not 0.0 < self.top_fraction <= 1.0:
            return (
                f"top_fraction is {self.top_fraction}, but the share of tokens that count lies in "
                "(0, 1]: give 0.2, for example."
            )
        if self.switch_step is not None and self.switch_step < 0:
            return (
                f"switch_step is {self.switch_step}, but steps count from 0: give 0 to refine from "
                "the start, or leave it out for half of the run."
            )
        if self.support == "full":
            return (
                "stages two is refused with support full: exploration selects by the drawn token, "
                "which that loss never reads: use support sampled, or stages one."
            )
        if self.baseline != "none":
            return (
                f"baseline {self.baseline} is refused with stages two: exploration would take it "
                "off the tokens it keeps alone, which biases the gradient: use baseline none, or "
                "stages one."
            )
        return None

    def instead(self) -> str:
        return super().instead() + (" with stages one" if self.stages == "two" else "")

    @property
    def floor(self) -> float:
        """log(λ/(1−λ)), the least reward, in nats; −inf at λ = 0."""
        return math.log(self.mixing / (1.0 - self.mixing)) if self.mixing else -math.inf

    def explores(self, clock: Clock) -> bool:
        """Whether this step belongs to the first of two stages."""
        if self.switch_step is None:
            return 2 * clock.step < clock.total_steps
        return clock.step < self.switch_step

    def needs(self) -> SignalSpec:
        return super().needs() | SignalSpec(student_entropy=self.stages == "two")

    def planned(self) -> SignalSpec:
        return SignalSpec(sampled=self.stages == "two")

    def reward(self, *, log_p: Tensor, log_q: Tensor, clock: Clock) -> Tensor:
        del clock
        impossible = log_p == -torch.inf
        log_ratio = log_q - log_p.masked_fill(impossible, 0.0)
        return log_ratio.clamp(min=self.floor).masked_fill(impossible, 0.0)

    def plan(self, step: StepTokens) -> Plan:
        """1 for each selected token, 0 for the others; the divisor is the number of those."""
        every = super().plan(step)
        if self.stages == "one":
            return every
        trained = every.weight != 0
        if self.explores(step.clock):
            kept = trained & (drawn(step.signal) - step.tokens.student_logp >= self.floor)
        else:
            assert step.tokens.student_entropy is not None, "the rollouts recorded no entropy"
            kept = top_share(
                step.tokens.student_entropy,
                among=trained,
                fraction=self.top_fraction or 1.0,
                gather=step.gather,
            )
        return Plan(weight=every.weight * kept, denominator=float(kept.sum()))

    def declared(self, at: Prefixes) -> Tensor:
        if self.stages == "one":
            return super().declared(at)
        reward = self.reward(log_p=at.student_logp.detach(), log_q=at.teacher_logp, clock=at.clock)
        mass = self.declared_mass(at, reward)
        if self.explores(at.clock):
            kept = at.teacher_logp - at.rollout_logp >= self.floor
        else:
            unsure = entropy(at.rollout_logp)
            every = torch.ones_like(unsure, dtype=torch.bool)
            kept = top_share(unsure, among=every, fraction=self.top_fraction or 1.0).unsqueeze(-1)
        return -(kept * mass * reward * at.student_logp).sum(-1)
