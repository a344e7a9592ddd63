"""OPD on the tokens where the student was least sure: the highest student entropies of a step.

Shapes: N tokens, V shared vocabulary, n prefixes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tandem.core.divergences import entropy
from tandem.core.selection import top_share
from tandem.objectives.base import Plan, Prefixes, StepTokens
from tandem.objectives.reverse_kl import ReverseKL
from tandem.objectives.reverse_kl_rules import Support
from tandem.types import SignalSpec


class EntropySelected(ReverseKL):
    """Reverse KL on the fraction of tokens with the highest student entropy (Entropy-OPD 20 %).

    The entropy is that of the student at rollout time over the whole vocabulary, the quantile that
    of all trained tokens of the step, on every rank; tokens that equal the threshold are all in.
    The divisor stays the number of trained tokens, selected or not, so the selection takes terms
    out of the sum and scales none of the others. Fraction 1 is `reverse_kl`.
    """

    equation = "1[H(p) among the step's top share] · KL(p‖q)"
    source = "baseline of TrOPD, arXiv 2606.01249; the divisor counts unselected tokens too (ours)"
    value_name = "selected_reverse_kl"

    kind: Literal["entropy_selected"] = "entropy_selected"  # pyright: ignore[reportIncompatibleVariableOverride]
    fraction: Annotated[
        float, Field(description="share of the step's trained tokens that count, in (0, 1]")
    ] = 0.2
    support: Annotated[
        Support,
        Field(description="the tokens that are summed over at each prefix; published: sampled"),
    ] = "sampled"

    def refused(self) -> str | None:
        if not 0.0 < self.fraction <= 1.0:
            return (
                f"fraction is {self.fraction}, but the share of tokens that count lies in (0, 1]: "
                "give 0.2, for example."
            )
        return super().refused()

    def needs(self) -> SignalSpec:
        return super().needs() | SignalSpec(student_entropy=True)

    def plan(self, step: StepTokens) -> Plan:
        """The weights of reverse_kl where the student's entropy is among the largest, else 0."""
        every = super().plan(step)
        assert step.tokens.student_entropy is not None, "the rollouts recorded no student entropy"
        kept = top_share(
            step.tokens.student_entropy,
            among=every.weight != 0,
            fraction=self.fraction,
            gather=step.gather,
        )
        return Plan(weight=every.weight * kept, denominator=every.denominator)

    def declared(self, at: Prefixes) -> Tensor:
        unsure = entropy(at.rollout_logp.detach())
        every = torch.ones_like(unsure, dtype=torch.bool)
        return super().declared(at) * top_share(unsure, among=every, fraction=self.fraction)
