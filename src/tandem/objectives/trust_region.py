"""TrOPD: reverse KL where the teacher is likely to agree, a gentler rule for the other tokens.

Shapes: N tokens of a chunk, V shared vocabulary, K the teacher's top-k, S the trust term's support.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tandem.behaviours.base import Behaviour
from tandem.core.divergences import forward_kl
from tandem.core.estimators import policy_gradient
from tandem.core.support import log_softmax_at
from tandem.objectives.base import Plan, Prefixes, StepTokens, TokenLoss, likeliest, mean_part
from tandem.objectives.sampled import Sampled, drawn, expected_reward
from tandem.objectives.shaped import expected_policy_gradient
from tandem.objectives.trust_region_gate import TrustGate, log_rho
from tandem.objectives.trust_region_rules import (
    DEFAULT_GUIDANCE,
    Gate,
    Outlier,
    Support,
    fill_in,
    refusal,
)
from tandem.types import Author, Clock, SignalSpec, TeacherSignal, TokenBatch


class TrustRegion(Sampled):
    """TrOPD (arXiv 2606.01249): each drawn token y is trusted with probability min(1, q(y)/p(y)).

    A trusted token follows reverse KL as a policy gradient, an outlier the forward KL on the
    teacher's top-k (or it is masked, or its reward clipped), and tokens that the request gave from
    the teacher's text are imitated with a small weight. An outlier turns up with probability
    TV(p, q). `gate: expected` puts both chances in as weights: the same expectation with less
    variance. `gate: none` is a static rule for every drawn token, the paper's two baselines.

    The importance weight multiplies both terms, never the guidance. With importance clipped its
    side is that of the advantage with the gate integrated out (ours), so that both gates agree.
    A baseline is the mean of that reward and is taken off outliers too: off trusted tokens alone
    it would bias the gradient.
    """

    equation = (
        "E_y~mu[ω(y) (M·sg[log p − log q](y)·log p(y) + (1−M) Σ_{v∈K} q (log q − log p))] "
        "− β Σ_given log p, M ~ Bernoulli(min(1, q(y)/p(y))), ω = p/mu"
    )
    source = "arXiv 2606.01249; gate expected and the summed supports are derived (ours)"
    value_name = "trust_region"

    kind: Literal["trust_region"] = "trust_region"
    gate: Annotated[
        Gate,
        Field(
            description="sampled: one Bernoulli draw per token, as published; expected: its "
            "probabilities as weights; none: no gate, outlier mask or clip on every drawn token"
        ),
    ] = "sampled"
    outlier: Annotated[
        Outlier,
        Field(
            description="what becomes of an outlier: forward KL on the teacher's top-k, nothing, "
            "or the reward max(log q/p, floor); mask and clip with a gate are unstated there (ours)"
        ),
    ] = "forward_kl"
    top_k: Annotated[
        int | None, Field(description="the teacher's tokens in the forward KL; 64 where it has one")
    ] = None
    floor: Annotated[
        float | None,
        Field(
            description="lowest log q/p that counts in outlier clip, and in mask with gate none; "
            "unstated there: log(.2/.8), the floor of arXiv 2603.11137, is ours"
        ),
    ] = None
    guidance_weight: Annotated[
        float | None,
        Field(
            description="weight of −log p on tokens given from the teacher's text; left out, the "
            "paper's 0.001 wherever there are such tokens"
        ),
    ] = None
    support: Annotated[
        Support,
        Field(
            description="of the trust term: the drawn token, or a sum that never reads it and is "
            "right under every behaviour (gate expected): the student's top-k, or all tokens"
        ),
    ] = "sampled"
    support_top_k: Annotated[
        int | None, Field(description="the student's tokens in support student_topk; 16 (ours)")
    ] = None
    positive_branch: Annotated[
        Literal["none", "add"],
        Field(
            description="add: AOPD's policy gradient (arXiv 2605.06387) once more where q(y) > "
            "p(y), which doubles it there; how the two combine is unstated (ours)"
        ),
    ] = "none"

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        fill_in(given)
        return given

    def refused(self) -> str | None:
        return refusal(dict(self))

    def reads_sampled(self) -> bool:
        return self.support == "sampled"

    def instead(self) -> str:
        if self.gate == "none":
            return ""
        gate = "" if self.gate == "expected" else "gate expected with "
        return f", or use {gate}support student_topk or full"

    def check(self, behaviour: Behaviour, *, updates_per_rollout: int) -> None:
        super().check(behaviour, updates_per_rollout=updates_per_rollout)
        if self.guidance_weight and not behaviour.gives():
            raise ValueError(
                f"guidance_weight is {self.guidance_weight}, but behaviour {behaviour.kind} opens "
                "no response with the teacher's text, so no token would be guided: use behaviour "
                "teacher_prefix, or remove guidance_weight."
            )

    def needs(self) -> SignalSpec:
        return SignalSpec(
            sampled=self.support == "sampled",
            student_topk=self.support_top_k or 0,
            teacher_topk=self.top_k or 0,
            dense=self.support == "full" or self.baseline == "expected",
            gate=self.gate == "sampled",
        )

    def plan(self, step: StepTokens) -> Plan:
        """Drawn tokens and guided ones weigh 1, other forced ones 0; the divisor is their count."""
        weight = (~step.tokens.forced | self._guided(step.tokens)).float()
        return Plan(weight=weight, denominator=float(weight.sum()))

    def gate_probability(self, *, student_logp: Tensor, teacher_logp: Tensor) -> Tensor | None:
        if self.gate != "sampled":
            return None
        return self._rule().shares(log_rho(log_p=student_logp, log_q=teacher_logp))[0]

    def _rule(self) -> TrustGate:
        return TrustGate(
            gate=self.gate,
            outlier=self.outlier,
            floor=self.floor,
            positive_branch=self.positive_branch == "add",
        )

    def loss(
        self,
        logits: Tensor,
        *,
        signal: TeacherSignal,
        tokens: TokenBatch,
        weight: Tensor,
        clock: Clock,
    ) -> TokenLoss:
        """Score N tokens. Metrics over drawn ones: outlier_share, reward (its mean, nats); where y
        is read, log_ratio (log p(y) − log q(y), nats), importance_weight. Over all: guidance_share.
        """
        del clock
        log_y, log_top, log_support = self._log_p(logits, signal, tokens)
        drawn_weight = weight.masked_fill(tokens.forced, 0.0)
        if log_support is None:
            found, pull = self._drawn(logits, log_y, signal, tokens, drawn_weight)
        else:
            found, pull = self._summed(log_support, signal, drawn_weight)
        surrogate, value, metrics = found.surrogate, found.value, found.metrics
        if log_top is not None:
            assert signal.teacher_topk_logp is not None
            log_q = signal.teacher_topk_logp[:, : self.top_k]
            # Where nothing pulls, an infinite KL must not turn into NaN.
            away = forward_kl(student_logp=log_top, teacher_logp=log_q)
            term = (pull * away).masked_fill(pull == 0, 0.0)
            surrogate, value = surrogate + term, value + term.detach()
        if self._guidance() != 0.0:
            guided = self._guided(tokens)
            imitation = (-self._guidance() * log_y).masked_fill(log_y == -torch.inf, torch.inf)
            surrogate = torch.where(guided, imitation, surrogate)
            value = torch.where(guided, imitation.detach(), value)
            metrics["guidance_share"] = mean_part(guided.to(value.dtype), weight)
        return TokenLoss(surrogate, value, metrics)

    def _log_p(
        self, logits: Tensor, signal: TeacherSignal, tokens: TokenBatch
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """log p with gradient: of y [N], on the teacher's top-k [N, K], on the support [N, S]."""
        ids = [tokens.ids.unsqueeze(-1)]
        if self.top_k is not None:
            assert signal.teacher_topk_ids is not None, "the signal lacks the teacher's top-k"
            ids.append(signal.teacher_topk_ids[:, : self.top_k])
        if self.support_top_k is not None:
            assert signal.student_topk_ids is not None, "the signal lacks the student's top-k"
            ids.append(signal.student_topk_ids[:, : self.support_top_k])
        every = torch.cat(ids, dim=-1)  # one normaliser for all of them
        if self.support == "full":
            support = torch.log_softmax(logits, dim=-1)
            found = support.gather(-1, every)
        else:
            support, found = None, log_softmax_at(logits=logits, ids=every)
        parts = found.split([part.shape[-1] for part in ids], dim=-1)
        top = parts[1] if self.top_k is not None else None
        return parts[0].squeeze(-1), top, parts[-1] if self.support_top_k is not None else support

    def _drawn(
        self,
        logits: Tensor,
        log_y: Tensor,
        signal: TeacherSignal,
        tokens: TokenBatch,
        weight: Tensor,
    ) -> tuple[TokenLoss, Tensor]:
        """The drawn tokens' policy gradient, and each one's weight [N] on the forward KL."""
        ratio = log_rho(log_p=log_y.detach(), log_q=drawn(signal))
        mean_reward, outlier = self._rule().expected(ratio)
        reward = mean_reward
        if self.gate == "sampled":
            assert tokens.gate is not None, "the tokens carry no gate"
            trusted = (tokens.gate < self._rule().shares(ratio)[0]).to(ratio.dtype)
            outlier = 1.0 - trusted
            reward = self._rule().reward(ratio, trusted, outlier)
        baseline = self._baseline(logits, signal)
        correction = self.correction(log_p=log_y, reward=mean_reward - baseline, tokens=tokens)
        scored = policy_gradient(log_p=log_y, reward=reward - baseline, weight=correction)
        metrics = {
            "outlier_share": mean_part(outlier, weight),
            "reward": mean_part(reward, weight),
            "log_ratio": mean_part(-ratio, weight),
        }
        if correction is None:
            return TokenLoss(scored.surrogate, -reward, metrics), outlier
        metrics["importance_weight"] = mean_part(correction, weight)
        return TokenLoss(scored.surrogate, -correction * reward, metrics), correction * outlier

    def _summed(
        self, log_p: Tensor, signal: TeacherSignal, weight: Tensor
    ) -> tuple[TokenLoss, Tensor]:
        """The same as sums over the support, from its log p [N, S]."""
        log_q = signal.logp
        if self.support == "student_topk":
            assert signal.student_topk_logp is not None
            log_q = signal.student_topk_logp[:, : self.support_top_k]
        assert log_q is not None, "support full needs the dense teacher"
        ratio = log_rho(log_p=log_p.detach(), log_q=log_q)
        reward, outlier = self._rule().expected(ratio)
        scored = expected_policy_gradient(log_p=log_p, reward=reward)
        pull = (log_p.detach().exp() * outlier).sum(-1)
        metrics = {
            "outlier_share": mean_part(pull, weight),
            "reward": mean_part(-scored.value, weight),
        }
        return TokenLoss(scored.surrogate, scored.value, metrics), pull

    def _baseline(self, logits: Tensor, signal: TeacherSignal) -> Tensor | float:
        if self.baseline == "none":
            return 0.0
        assert signal.logp is not None, "the baseline needs the dense teacher"
        ratio = log_rho(log_p=torch.log_softmax(logits.detach(), dim=-1), log_q=signal.logp)
        return expected_reward(logits=logits, reward=self._rule().expected(ratio)[0])

    def _guidance(self) -> float:
        return DEFAULT_GUIDANCE if self.guidance_weight is None else self.guidance_weight

    def _guided(self, tokens: TokenBatch) -> Tensor:
        """[N] the tokens that a request gave from the teacher's text, if they count at all."""
        if self._guidance() == 0.0:
            return torch.zeros_like(tokens.forced)
        return tokens.forced & (tokens.author == int(Author.TEACHER))

    def declared(self, at: Prefixes) -> Tensor:
        log_p, log_q = at.student_logp, at.teacher_logp
        ratio = log_rho(log_p=log_p.detach(), log_q=log_q)
        reward, outlier = self._rule().expected(ratio)
        if self.support == "sampled":
            reward = self.declared_advantage(at, reward)
            mass = self.declared_mass(at, reward)
        else:
            mass = log_p.detach().exp()
            if self.support_top_k is not None:
                ids = likeliest(at.rollout_logp, self.support_top_k).indices
                mass = mass * torch.zeros_like(mass).scatter(-1, ids, 1.0)
        policy = -(mass * reward * log_p).sum(-1)
        if self.top_k is None:
            return policy
        top = likeliest(log_q, self.top_k)
        away = (top.values.exp() * (top.values - log_p.gather(-1, top.indices))).sum(-1)
        return policy + (mass * outlier).sum(-1) * away
