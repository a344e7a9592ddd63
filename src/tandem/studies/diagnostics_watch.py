"""A behaviour's own law, with what both models think of each prefix written down beside it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import SerializeAsAny
from torch import Tensor

from tandem.behaviours.base import Behaviour, Law
from tandem.core.divergences import reverse_kl
from tandem.objectives.trust_region_gate import TrustGate, log_rho
from tandem.types import Author, Clock, SignalSpec

# TrOPD's gate (arXiv 2606.01249), its chance taken instead of drawn.
ACCEPTANCE = TrustGate(gate="expected", outlier="mask", floor=None, positive_branch=False)
# What is written down: names that no behaviour's own statistics have.
REVERSE_KL, OUTLIER, OUTSIDE = "watched/reverse_kl", "watched/outlier", "watched/outside_"
RECORD = SignalSpec(sampled=True, teacher_entropy=True, student_entropy=True)
"""What the engine is to record besides."""


class Watched(Behaviour):
    """The law of `law`; the teacher is asked also where that law does not need it.

    Its very draws too, where it asks the teacher anyway or is the student's own law.

    Statistics, exact at each prefix whoever wrote it, besides those of `law`:
    `watched/reverse_kl` = KL(p‖q) in nats; `watched/outlier` = Σ_v p_v (1 − min(1, q_v/p_v)), the
    chance that TrOPD's gate finds a token of the student an outlier, which is TV(p, q);
    `watched/outside_K` = 1 − Σ_K p for each K of `top_k`, the student's mass outside the teacher's
    K likeliest ids: the chance that SKD replaces its token.
    """

    equation: ClassVar[str] = "that of `law`"
    source: ClassVar[str] = "ours"

    kind: Literal["watched"] = "watched"
    law: SerializeAsAny[Behaviour]
    top_k: tuple[int, ...] = ()

    def __call__(
        self,
        *,
        student_logp: Tensor,
        teacher_logp: Tensor | None,
        clock: Clock,
        position: Tensor,
    ) -> Law:
        assert teacher_logp is not None
        own = self.law(
            student_logp=student_logp,
            teacher_logp=teacher_logp if self.law.needs_teacher(clock) else None,
            clock=clock,
            position=position,
        )
        _, outlier = ACCEPTANCE.shares(log_rho(log_p=student_logp, log_q=teacher_logp))
        stats = {
            REVERSE_KL: reverse_kl(student_logp=student_logp, teacher_logp=teacher_logp),
            OUTLIER: (student_logp.exp() * outlier).sum(-1),
            **outside(student_logp=student_logp, teacher_logp=teacher_logp, top_k=self.top_k),
        }
        return Law(own.logp, own.stats | stats, own.keeps, own.replacement)

    def needs_teacher(self, clock: Clock) -> bool:
        del clock
        return True

    def author(self, clock: Clock) -> Author:
        return self.law.author(clock)


def outside(
    *, student_logp: Tensor, teacher_logp: Tensor, top_k: tuple[int, ...]
) -> dict[str, Tensor]:
    """1 − Σ_K p [*] over the teacher's K likeliest ids, for each K.

    Which of several equally likely ids stand at the edge of K is not specified.
    """
    if not top_k:
        return {}
    ids = teacher_logp.topk(max(top_k), dim=-1).indices
    inside = student_logp.gather(-1, ids).exp().cumsum(-1)
    return {f"{OUTSIDE}{k}": (1.0 - inside[..., k - 1]).clamp(min=0.0) for k in top_k}
