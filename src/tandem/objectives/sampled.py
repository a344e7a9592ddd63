"""What the losses that read the drawn token share: policy gradients and their weights.

Such a loss is right where the student drew the token. From any other law it needs a weight, which
corrects the law of the token and not that of the prefix; which weight is never chosen silently.
Shapes: N tokens of a chunk, V shared vocabulary.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tandem.behaviours.base import Behaviour
from tandem.core.estimators import clipped_weight, importance_weight, policy_gradient
from tandem.core.support import Scored, log_softmax_at
from tandem.objectives.base import Objective, Prefixes, mean_part
from tandem.types import TeacherSignal, TokenBatch

Importance = Literal["none", "exact", "truncated", "clipped"]
Baseline = Literal["none", "expected"]
Metrics = dict[str, tuple[Tensor, Tensor]]


class Sampled(Objective):
    """A loss that reads the drawn token: the fields that say how it is weighted."""

    importance: Annotated[
        Importance,
        Field(
            description="weight of a token drawn from another law than the current student: "
            "p/mu exactly, truncated at a limit, or with PPO's clipped ratio"
        ),
    ] = "none"
    importance_limit: Annotated[
        float | None,
        Field(description="truncated: the largest weight, >= 1; clipped: c of the range 1 ± c"),
    ] = None
    baseline: Annotated[
        Baseline,
        Field(
            description="expected: subtract the reward's mean under the student, over the whole "
            "vocabulary (vOPD, arXiv 2605.07865): the same gradient with less variance"
        ),
    ] = "none"

    @model_validator(mode="after")
    def _refuse_wrong_forms(self) -> Sampled:
        reason = self.refused()
        if reason is not None:
            raise ValueError(reason)
        return self

    def refused(self) -> str | None:
        """Why these fields do not go together, in one sentence; None if they do."""
        return refuse_limit(self.importance, self.importance_limit)

    def reads_sampled(self) -> bool:
        return True

    def check(self, behaviour: Behaviour, *, updates_per_rollout: int) -> None:
        if not self.reads_sampled():
            return
        if not behaviour.draws():
            raise ValueError(
                f"objective {self.kind} trains on drawn tokens only, and with behaviour "
                f"{behaviour.kind} every response is given whole, so it would train on nothing: "
                f"use objective supervised{self.instead()}."
            )
        if self.importance != "none":
            return
        if not behaviour.is_always_student():
            raise ValueError(
                f"objective {self.kind} scores the drawn token as if the student had drawn it, but "
                f"behaviour {behaviour.kind} draws from another law, which biases the gradient: "
                f"set importance to exact, truncated or clipped{self.instead()}."
            )
        if updates_per_rollout > 1:
            raise ValueError(
                f"training.updates_per_rollout is {updates_per_rollout}, so objective {self.kind} "
                "would score tokens that an older student drew as if the current one had: set "
                f"importance to exact, truncated or clipped{self.instead()}."
            )

    def instead(self) -> str:
        """The end of the sentence that refuses: another form that never reads the token."""
        return ""

    def sampled_logp(self, logits: Tensor, tokens: TokenBatch) -> Tensor:
        """log p(y) of the drawn tokens [N], with gradient."""
        return log_softmax_at(logits=logits, ids=tokens.ids.unsqueeze(-1)).squeeze(-1)

    def weighted(
        self, *, log_p: Tensor, reward: Tensor, tokens: TokenBatch, weight: Tensor
    ) -> tuple[Scored, Metrics]:
        """The policy gradient of `reward` [N] with this recipe's weights, and their mean.

        A baseline is part of `reward` already.
        """
        correction = self.correction(log_p=log_p, reward=reward, tokens=tokens)
        scored = policy_gradient(log_p=log_p, reward=reward, weight=correction)
        if correction is None:
            return scored, {}
        return scored, {"importance_weight": mean_part(correction, weight)}

    def correction(self, *, log_p: Tensor, reward: Tensor, tokens: TokenBatch) -> Tensor | None:
        """The weight of each drawn token [N], detached; None where the student drew it itself."""
        if self.importance == "none":
            return None
        if self.importance == "clipped":
            assert self.importance_limit is not None
            correction = clipped_weight(
                log_p=log_p,
                rollout_logp=tokens.student_logp,
                behaviour_logp=tokens.behaviour_logp,
                reward=reward,
                clip=self.importance_limit,
            )
        else:
            correction = importance_weight(
                log_p=log_p, behaviour_logp=tokens.behaviour_logp, limit=self.importance_limit
            )
        # A forced token was drawn from no law, and the law's own p/mu there may well be infinite:
        # times the 0 of its weight, that would be NaN.
        impossible = log_p.detach() == -torch.inf
        return correction.masked_fill(tokens.forced, 1.0).masked_fill(impossible, 0.0)

    def declared_gradient(self, at: Prefixes, reward: Tensor) -> Tensor:
        """[n] −Σ_v mu(v) w(v) sg[R(v)] log p(v): what `weighted` follows, with the reward's mean
        taken off where a baseline is."""
        advantage = self.declared_advantage(at, reward)
        return -(self.declared_mass(at, advantage) * advantage * at.student_logp).sum(-1)

    def declared_advantage(self, at: Prefixes, reward: Tensor) -> Tensor:
        """[n, V] the reward, detached, less its mean under the student where a baseline is."""
        reward = reward.detach()
        if self.baseline == "none":
            return reward
        return reward - (at.student_logp.detach().exp() * reward).sum(-1, keepdim=True)

    def declared_mass(self, at: Prefixes, advantage: Tensor) -> Tensor:
        """[n, V] mu(v) w(v), detached: how much each token counts, its weight included."""
        mass = p = at.student_logp.detach().exp()
        if self.importance == "truncated":
            mass = torch.minimum(p, (self.importance_limit or 1.0) * at.behaviour_logp.exp())
        elif self.importance == "clipped":
            c = self.importance_limit or 0.0
            ratio = p / at.rollout_logp.exp()
            beyond = torch.where(advantage > 0, ratio > 1 + c, ratio < 1 - c)
            mass = p * ~(beyond & (advantage != 0))
        return mass if at.share is None else mass * at.share


def expected_reward(*, logits: Tensor, reward: Tensor) -> Tensor:
    """E_p[R] under the current student, detached: logits [N, V], reward [N, V] -> [N].

    Ids that either model masks are left out: any baseline is right that does not depend on y.
    """
    log_p = torch.log_softmax(logits.detach(), dim=-1)
    reward = reward.detach()
    return (log_p.exp() * reward.masked_fill(~reward.isfinite(), 0.0)).sum(-1)


def drawn(signal: TeacherSignal) -> Tensor:
    """log q of the drawn tokens [N]."""
    assert signal.sampled_logp is not None, "the signal lacks the sampled token"
    return signal.sampled_logp


def refuse_limit(importance: str, limit: float | None) -> str | None:
    """Why this limit does not go with this importance, in one sentence; None if it does."""
    if importance == "truncated" and limit is None:
        return (
            "importance truncated needs importance_limit, the largest weight p/mu allowed: give "
            "a number of at least 1 (2, for example), or use importance exact."
        )
    if importance == "clipped" and limit is None:
        return (
            "importance clipped needs importance_limit, the c of PPO's range 1 ± c: give a number "
            "between 0 and 1 (0.2, for example)."
        )
    if limit is None:
        return None
    if importance in ("none", "exact"):
        return (
            f"importance_limit is {limit}, but importance {importance} has no limit: remove it, "
            "or use importance truncated."
        )
    if importance == "truncated" and limit < 1.0:
        return (
            f"importance_limit is {limit}, which would cut the weight of tokens that the student "
            "drew itself: give a number of at least 1."
        )
    if importance == "clipped" and not 0.0 < limit < 1.0:
        return f"importance_limit is {limit}, but the c of PPO's range 1 ± c lies in (0, 1)."
    return None
