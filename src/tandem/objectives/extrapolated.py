"""ExOPD: the teacher's gain over a reference model, scaled beyond the teacher.

Shapes: N tokens of a chunk, V shared vocabulary, n prefixes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tandem.objectives.base import Prefixes, TokenLoss, mean_part
from tandem.objectives.sampled import Sampled, drawn
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch


class Extrapolated(Sampled):
    """The policy gradient of λ (log q − log π_ref) − (log p − log π_ref) per drawn token (ExOPD).

    It is that of KL(p‖Q) for Q ∝ q^λ π_ref^(1−λ): the fixed point is Q, beyond the teacher for
    λ > 1 and the teacher itself only for λ = 1, where the reference drops out and K1 is left.
    """

    equation = "maximise E_p[λ (log q − log π_ref) − (log p − log π_ref)]"
    source = "ExOPD, arXiv 2602.12125"
    value_name = "extrapolated_kl"

    kind: Literal["extrapolated"] = "extrapolated"
    reward_scale: Annotated[
        float,
        Field(
            description="λ, above 0: the factor on the teacher's log-ratio to the reference; 1 is "
            "plain OPD, more extrapolates, less stays nearer to the reference"
        ),
    ] = 1.25

    def refused(self) -> str | None:
        if self.reward_scale <= 0.0:
            return (
                f"reward_scale is {self.reward_scale}, but at 0 the teacher plays no part and "
                "below it repels: give a number above 0 (1.25, for example)."
            )
        if self.baseline != "none":
            return (
                f"baseline {self.baseline} is refused: the reward's mean over the vocabulary needs "
                "the reference model's whole distribution, and only its log-prob of the drawn "
                "token is known: use baseline none."
            )
        return super().refused()

    def needs(self) -> SignalSpec:
        return SignalSpec(sampled=True, reference=True)

    def loss(
        self,
        logits: Tensor,
        *,
        signal: TeacherSignal,
        tokens: TokenBatch,
        weight: Tensor,
        clock: Clock,
    ) -> TokenLoss:
        """Score N tokens. Metrics: reward (nats), and importance_weight where there is one.

        The value is −R, weighted like the surrogate: an estimate of KL(p‖Q) − log Z. An id that the
        student can draw and the teacher or the reference masks makes it inf.
        """
        del clock
        assert signal.reference_logp is not None, "the signal lacks the reference"
        log_p = self.sampled_logp(logits, tokens)
        reward = self.reward(
            log_p=log_p.detach(), log_q=drawn(signal), reference_logp=signal.reference_logp
        )
        scored, metrics = self.weighted(log_p=log_p, reward=reward, tokens=tokens, weight=weight)
        metrics["reward"] = mean_part(reward, weight)
        return TokenLoss(scored.surrogate, scored.value, metrics)

    def reward(self, *, log_p: Tensor, log_q: Tensor, reference_logp: Tensor) -> Tensor:
        """R of the same shape; 0 where the student masks the id, else −inf where another does."""
        impossible = log_p == -torch.inf
        unknown = (log_q == -torch.inf) | (reference_logp == -torch.inf)
        target = self.reward_scale * log_q + (1.0 - self.reward_scale) * reference_logp
        reward = (target - log_p).masked_fill(unknown, -torch.inf)
        return reward.masked_fill(impossible, 0.0)

    def declared(self, at: Prefixes) -> Tensor:
        gain = at.teacher_logp - at.reference_logp
        drift = at.student_logp - at.reference_logp
        return self.declared_gradient(at, self.reward_scale * gain - drift)
