"""AOPD: a policy gradient where the teacher likes the drawn token better, forward KL elsewhere.

Shapes: N tokens of a chunk, V shared vocabulary, K the teacher's top-k, n prefixes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tandem.core.divergences import forward_kl
from tandem.core.estimators import policy_gradient
from tandem.core.support import log_softmax_at
from tandem.objectives.base import Plan, Prefixes, StepTokens, TokenLoss, likeliest, mean_part
from tandem.objectives.sampled import Sampled, drawn, expected_reward
from tandem.types import Clock, SignalSpec, TeacherSignal, TokenBatch


class Asymmetric(Sampled):
    """Each drawn token y takes one of two losses by the sign of q(y) − p(y) (AOPD).

    Above the threshold: K1 reverse KL as a policy gradient. At or below it: forward KL on the
    teacher's top-k, Σ_K q (log q − log p), not renormalised, whose gradient is m_T p − q 1[K],
    m_T = Σ_K q. The gate is hard, reads the current student and carries no gradient. Threshold −1
    leaves K1 alone; where the models agree, every token takes the forward KL.

    Each response is a mean over its trained tokens, and the step a mean over its responses. Both
    losses depend on y, so the importance weight multiplies both; with importance clipped its side
    is that of log q(y) − log p(y) in both (ours). A baseline is the mean of the policy gradient's
    part and is taken off every drawn token: off one branch alone it would bias the gradient (ours).
    """

    equation = (
        "E_y~mu[ω(y) (G·sg[log p − log q](y)·log p(y) + (1−G) Σ_{v∈K} q (log q − log p))], "
        "G = 1[q(y) − p(y) > threshold], ω = p/mu, mean over each response's tokens"
    )
    source = "AOPD, arXiv 2605.06387"
    value_name = "asymmetric"

    kind: Literal["asymmetric"] = "asymmetric"
    threshold: Annotated[
        float,
        Field(description="largest q(y) − p(y), in [−1, 1], at which the forward KL is taken"),
    ] = 0.0
    top_k: Annotated[
        int,
        Field(
            description="the teacher's tokens in the forward KL; unstated to us: 64, that of "
            "TrOPD (arXiv 2606.01249), is ours"
        ),
    ] = 64

    def refused(self) -> str | None:
        if not -1.0 <= self.threshold <= 1.0:
            return (
                f"threshold is {self.threshold}, but q(y) − p(y) lies in [−1, 1]: give a number "
                "there, 0 as published."
            )
        if self.top_k < 1:
            return (
                f"top_k is {self.top_k}, but a support holds at least 1 token: give 1 or more, "
                "say 64."
            )
        return super().refused()

    def needs(self) -> SignalSpec:
        return SignalSpec(sampled=True, teacher_topk=self.top_k, dense=self.baseline == "expected")

    def plan(self, step: StepTokens) -> Plan:
        """1/(trained tokens of its response) for each, 0 for given tokens; the divisor is the
        number of responses with a trained token."""
        trained = super().plan(step).weight != 0
        ids, response = torch.unique(step.tokens.sequence, return_inverse=True)
        length = torch.bincount(response[trained], minlength=len(ids))
        share = 1.0 / length.clamp(min=1).float()
        weight = share[response].masked_fill(~trained, 0.0)
        return Plan(weight=weight, denominator=float((length > 0).sum()))

    def loss(
        self,
        logits: Tensor,
        *,
        signal: TeacherSignal,
        tokens: TokenBatch,
        weight: Tensor,
        clock: Clock,
    ) -> TokenLoss:
        """Score N tokens. Metrics: forward_share, the share of tokens with the forward KL;
        log_ratio (log p(y) − log q(y), nats); importance_weight where there is one."""
        del clock
        ids, log_q = signal.teacher_topk_ids, signal.teacher_topk_logp
        assert ids is not None and log_q is not None, "the signal lacks the teacher's top-k"
        ids = torch.cat([tokens.ids.unsqueeze(-1), ids[:, : self.top_k]], dim=-1)
        log_p = log_softmax_at(logits=logits, ids=ids)  # one normaliser for both branches
        log_y, log_top = log_p[:, 0], log_p[:, 1:]
        ratio, below = self.branch(log_p=log_y.detach(), log_q=drawn(signal))
        reward = ratio.masked_fill(below, 0.0)
        baseline = self._baseline(logits, signal)
        correction = self.correction(log_p=log_y, reward=ratio - baseline, tokens=tokens)
        scored = policy_gradient(log_p=log_y, reward=reward - baseline, weight=correction)
        away = forward_kl(student_logp=log_top, teacher_logp=log_q[:, : self.top_k])
        metrics = {
            "forward_share": mean_part(below.to(ratio.dtype), weight),
            "log_ratio": mean_part(-ratio, weight),
        }
        pull, value = below.to(ratio.dtype), -reward
        if correction is not None:
            metrics["importance_weight"] = mean_part(correction, weight)
            pull, value = correction * pull, correction * value
        # Where nothing pulls, an infinite KL must not turn into NaN.
        term = (pull * away).masked_fill(pull == 0, 0.0)
        return TokenLoss(scored.surrogate + term, value + term.detach(), metrics)

    def branch(self, *, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """log ρ of any shape, 0 where the student masks the id; and where q − p <= threshold.

        A difference of rounding counts as none, so that equal models take one branch. A threshold
        of −1 leaves nothing below, whatever p rounds to.
        """
        impossible = log_p == -torch.inf
        ratio = (log_q - log_p.masked_fill(impossible, 0.0)).masked_fill(impossible, 0.0)
        p, q = log_p.exp(), log_q.exp()
        rounding = 64 * torch.finfo(log_p.dtype).eps * torch.maximum(p, q)
        below = q - p <= self.threshold + rounding
        return ratio, below if self.threshold > -1.0 else torch.zeros_like(below)

    def _baseline(self, logits: Tensor, signal: TeacherSignal) -> Tensor | float:
        if self.baseline == "none":
            return 0.0
        assert signal.logp is not None, "the baseline needs the dense teacher"
        log_p = torch.log_softmax(logits.detach(), dim=-1)
        ratio, below = self.branch(log_p=log_p, log_q=signal.logp)
        return expected_reward(logits=logits, reward=ratio.masked_fill(below, 0.0))

    def declared(self, at: Prefixes) -> Tensor:
        log_p = at.student_logp.detach()
        ratio = at.teacher_logp - log_p
        above = at.teacher_logp.exp() - log_p.exp() > self.threshold + 1e-12
        reward = ratio * above
        expected = (log_p.exp() * reward).sum(-1, keepdim=True)
        baseline = expected if self.baseline == "expected" else torch.zeros_like(expected)
        mass = self.declared_mass(at, ratio - baseline)
        top = likeliest(at.teacher_logp, self.top_k)
        away = forward_kl(
            student_logp=at.student_logp.gather(-1, top.indices), teacher_logp=top.values
        )
        policy = -(mass * (reward - baseline) * at.student_logp).sum(-1)
        return policy + (mass * ~above).sum(-1) * away
