"""Policy gradients whose reward is a function of log p(y) and log q(y), and their exact sums.

Shapes: N tokens of a chunk, V shared vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tandem.core.estimators import policy_gradient
from tandem.core.support import Scored
from tandem.objectives.base import Prefixes, TokenLoss, mean_part
from tandem.objectives.sampled import Sampled, drawn, expected_reward, refuse_limit
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch


class Shaped(Sampled):
    """A reward R(log p, log q) per token, followed by its policy gradient.

    support sampled: sg[R(y)] ∇log p(y) of the drawn token. full: Σ_v sg[p R] ∇log p, the same
    gradient without sampling variance, from the dense teacher.
    """

    support: Annotated[
        Literal["sampled", "full"],
        Field(description="the drawn token, or the sum over the whole vocabulary"),
    ] = "sampled"

    @abstractmethod
    def reward(self, *, log_p: Tensor, log_q: Tensor, clock: Clock) -> Tensor:
        """R of the same shape, element by element; detached by the caller. −inf where only the
        teacher masks an id; ids that the student masks are the caller's business."""

    def refused(self) -> str | None:
        if self.support == "full" and self.importance != "none":
            return (
                f"importance {self.importance} is refused with support full: that loss never reads "
                "the sampled token, so a weight p/mu would bias it: use importance none."
            )
        if self.support == "full" and self.baseline != "none":
            return (
                f"baseline {self.baseline} is refused with support full: that loss sums over "
                "tokens and has no sampling variance to take off: use baseline none."
            )
        return refuse_limit(self.importance, self.importance_limit)

    def reads_sampled(self) -> bool:
        return self.support == "sampled"

    def instead(self) -> str:
        return ", or use support full"

    def needs(self) -> SignalSpec:
        full = self.support == "full"
        return SignalSpec(sampled=not full, dense=full or self.baseline == "expected")

    def loss(
        self,
        logits: Tensor,
        *,
        signal: TeacherSignal,
        tokens: TokenBatch,
        weight: Tensor,
        clock: Clock,
    ) -> TokenLoss:
        """Score N tokens. Metrics: reward (its mean, nats), importance_weight where there is one.

        The value is −R, weighted like the surrogate and without the baseline.
        """
        if self.support == "full":
            return self._full(logits, signal, weight, clock)
        log_p = self.sampled_logp(logits, tokens)
        reward = self.reward(log_p=log_p.detach(), log_q=drawn(signal), clock=clock)
        advantage = reward
        if self.baseline == "expected":
            assert signal.logp is not None, "the baseline needs the dense teacher"
            every = self.reward(
                log_p=torch.log_softmax(logits.detach(), dim=-1), log_q=signal.logp, clock=clock
            )
            advantage = reward - expected_reward(logits=logits, reward=every)
        correction = self.correction(log_p=log_p, reward=advantage, tokens=tokens)
        scored = policy_gradient(log_p=log_p, reward=advantage, weight=correction)
        value = policy_gradient(log_p=log_p.detach(), reward=reward, weight=correction).value
        metrics = {"reward": mean_part(reward, weight)}
        if correction is not None:
            metrics["importance_weight"] = mean_part(correction, weight)
        return TokenLoss(scored.surrogate, value, metrics)

    def _full(
        self, logits: Tensor, signal: TeacherSignal, weight: Tensor, clock: Clock
    ) -> TokenLoss:
        assert signal.logp is not None, "support full needs the dense teacher"
        log_p = torch.log_softmax(logits, dim=-1)
        reward = self.reward(log_p=log_p.detach(), log_q=signal.logp, clock=clock)
        scored = expected_policy_gradient(log_p=log_p, reward=reward)
        metrics = {"reward": mean_part(-scored.value, weight)}
        return TokenLoss(scored.surrogate, scored.value, metrics)

    def declared(self, at: Prefixes) -> Tensor:
        reward = self.reward(log_p=at.student_logp.detach(), log_q=at.teacher_logp, clock=at.clock)
        if self.support == "sampled":
            return self.declared_gradient(at, reward)
        return -((at.student_logp.exp() * reward).detach() * at.student_logp).sum(-1)


def expected_policy_gradient(*, log_p: Tensor, reward: Tensor) -> Scored:
    """−Σ_v sg[p R] log p, and −Σ_v p R as the value: log_p [N, V] with gradient, reward [N, V].

    Ids without mass under p count nothing; a reward of −inf on any other makes both inf.
    """
    alive = log_p > -torch.inf
    reward = reward.detach()
    forbidden = alive & (reward == -torch.inf)
    safe = log_p.masked_fill(~alive, 0.0)
    score = -(log_p.detach().exp() * reward.masked_fill(~alive | forbidden, 0.0))
    blocked = forbidden.any(-1)
    return Scored(
        (score * safe).sum(-1).masked_fill(blocked, torch.inf),
        score.sum(-1).masked_fill(blocked, torch.inf),
    )
