"""Forward KL, KL(teacher‖student) per prefix, at every visited prefix alike.

Shapes: N tokens of a chunk, V shared vocabulary, K support, E events.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from tandem.core.divergences import forward_kl
from tandem.core.support import Scored
from tandem.core.vocabulary_forms import forward_kl_full
from tandem.objectives.summed import Summed


class ForwardKL(Summed):
    """KL(q‖p) at every visited prefix: the row "forward KL everywhere" of TrOPD.

    On the teacher's top-k with tail none it is Σ_K q (log q − log p), not renormalised, as in
    TrOPD's outlier term: its gradient in the logits is m_T p − q 1[K], m_T = Σ_K q, which is not 0
    where the models agree (it draws the student's mass onto the support). The other tails are
    divergences of their own, and at rest there.
    """

    equation = "KL(q‖p) = Σ_v q (log q − log p)"
    source = "baseline of TrOPD, arXiv 2606.01249; on-policy in GKD, arXiv 2306.13649"
    value_name = "forward_kl"
    default_tail = "none"

    kind: Literal["forward_kl"] = "forward_kl"
    support: Annotated[
        Literal["full", "teacher_topk"],
        Field(
            description="the tokens that are summed over at each prefix; which TrOPD's baseline "
            "takes is unstated, and full is ours"
        ),
    ] = "full"

    def divergence(self, *, log_p: Tensor, log_q: Tensor) -> Tensor:
        return forward_kl(student_logp=log_p, teacher_logp=log_q)

    def over_vocabulary(self, *, logits: Tensor, log_q: Tensor) -> tuple[Scored, Tensor]:
        return forward_kl_full(logits=logits, log_q=log_q)
