"""The generalised Jensen-Shannon divergence of GKD, between forward and reverse KL.

Shapes: N tokens of a chunk, V shared vocabulary, K support, E events.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from tandem.core.divergences import generalised_jsd
from tandem.core.support import Scored
from tandem.core.vocabulary_forms import generalised_jsd_full
from tandem.objectives.summed import Summed


class GeneralizedJSD(Summed):
    """β KL(q‖M) + (1−β) KL(p‖M) with M = βq + (1−β)p (GKD), the loss alone.

    The formula is 0 for any two models at β = 0 and β = 1, so what those mean is `ends`: special
    puts KL(q‖p) and KL(p‖q) there and is discontinuous; scaled divides by β(1−β), which has those
    two as its limits. Whose responses it is taken on, the paper's on-policy fraction, is a matter
    of the behaviour.

    On a support every tail is right inside (0, 1): the terms of the truncated sum are >= 0 and 0
    where the models agree, so tail none has no drift. At β = 0 and 1 it would have one: refused.
    """

    equation = "β KL(q‖M) + (1−β) KL(p‖M), M = βq + (1−β)p"
    source = "GKD, arXiv 2306.13649"
    value_name = "jsd"

    kind: Literal["generalized_jsd"] = "generalized_jsd"
    support: Annotated[
        Literal["full", "teacher_topk", "student_topk"],
        Field(
            description="the tokens that are summed over at each prefix; a support, and on one "
            "tail renormalise where none is given, are ours: the paper sums over the vocabulary"
        ),
    ] = "full"
    beta: Annotated[
        float,
        Field(description="weight of the teacher in the mixture: 0 is KL(q‖p), 1 is KL(p‖q)"),
    ] = 0.5
    ends: Annotated[
        Literal["special", "scaled"],
        Field(
            description="special: the formula as published, and the two KLs at its ends, where it "
            "jumps; scaled: divided by beta (1 − beta), continuous, 4 times as large at beta 0.5"
        ),
    ] = "special"

    def refused(self) -> str | None:
        if not 0.0 <= self.beta <= 1.0:
            return (
                f"beta is {self.beta}, but the teacher's weight in a mixture lies between 0 "
                "(forward KL) and 1 (reverse KL): give a number in [0, 1], 0.5 for example."
            )
        if self.beta in (0.0, 1.0) and self.support != "full" and self.tail == "none":
            name = "forward_kl" if self.beta == 0.0 else "reverse_kl"
            return (
                f"tail none is refused with beta {self.beta:g}: the truncated {name} there moves "
                "the student's mass also where both models agree, which the JSD's terms do not: "
                f"use tail renormalise or bucket, or objective.kind={name}, which says so."
            )
        return super().refused()

    def divergence(self, *, log_p: Tensor, log_q: Tensor) -> Tensor:
        return generalised_jsd(log_p=log_p, log_q=log_q, beta=self.beta, ends=self.ends)

    def over_vocabulary(self, *, logits: Tensor, log_q: Tensor) -> tuple[Scored, Tensor]:
        return generalised_jsd_full(logits=logits, log_q=log_q, beta=self.beta, ends=self.ends)
