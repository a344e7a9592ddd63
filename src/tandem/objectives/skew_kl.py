"""The skew KLs of DistiLLM: one model against a mixture that holds a little of itself.

Shapes: N tokens of a chunk, V shared vocabulary, K support, E events.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from tandem.core.divergences import skew_kl
from tandem.core.support import Scored
from tandem.core.vocabulary_forms import skew_forward_kl_full, skew_reverse_kl_full
from tandem.objectives.summed import Summed


class SkewKL(Summed):
    """KL(q‖αq + (1−α)p), or its reverse KL(p‖αp + (1−α)q) (DistiLLM).

    For α > 0 both are at most −log α and finite also where a model masks what the other allows.
    α = 0 is the forward and the reverse KL.
    """

    equation = "forward: KL(q‖αq + (1−α)p); reverse: KL(p‖αp + (1−α)q)"
    source = "DistiLLM, arXiv 2402.03898"
    value_name = "skew_kl"

    kind: Literal["skew_kl"] = "skew_kl"
    direction: Annotated[
        Literal["forward", "reverse"],
        Field(description="whose expectation it is: forward the teacher's, reverse the student's"),
    ]
    alpha: Annotated[
        float, Field(description="share of a model in the mixture it is held against, in [0, 1)")
    ] = 0.1
    support: Annotated[
        Literal["full", "teacher_topk"],
        Field(
            description="the tokens that are summed over at each prefix; a support, and on one "
            "tail renormalise where none is given, are ours: the paper sums over the vocabulary"
        ),
    ] = "full"

    def refused(self) -> str | None:
        if not 0.0 <= self.alpha < 1.0:
            return (
                f"alpha is {self.alpha}, but a skew lies in [0, 1), and at 1 a model would be held "
                "against itself: give 0.1, for example."
            )
        if self.direction == "reverse" and self.support != "full" and self.tail == "none":
            return (
                "tail none is refused with direction reverse: the truncated sum drives the "
                "student's mass off the support, also where both models agree: use tail "
                "renormalise or bucket."
            )
        return super().refused()

    def divergence(self, *, log_p: Tensor, log_q: Tensor) -> Tensor:
        if self.direction == "forward":
            return skew_kl(log_p=log_q, log_q=log_p, alpha=self.alpha)
        return skew_kl(log_p=log_p, log_q=log_q, alpha=self.alpha)

    def over_vocabulary(self, *, logits: Tensor, log_q: Tensor) -> tuple[Scored, Tensor]:
        form = skew_forward_kl_full if self.direction == "forward" else skew_reverse_kl_full
        return form(logits=logits, log_q=log_q, alpha=self.alpha)
