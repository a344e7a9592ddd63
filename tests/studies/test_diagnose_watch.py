"""Watching changes no law, and what is written down is what plain forwards say."""

from __future__ import annotations

import pytest
import torch
from pair_cases import CLOCK, Case, case, plain_logp
from torch import Tensor
from torch.testing import assert_close

from tandem.behaviours import (
    Behaviour,
    FixedBudgetBlend,
    SpeculativeKD,
    Student,
    Teacher,
    TemperatureWarmup,
    TrustRegionBlend,
)
from tandem.studies.diagnostics_pair import request_id
from tandem.studies.diagnostics_watch import OUTLIER, OUTSIDE, REVERSE_KL, Watched
from tandem.types import Request, Rollout, Sampling, SignalSpec

LAWS: list[Behaviour] = [
    Student(),
    TemperatureWarmup(start_temperature=0.7, warmup_steps=5),
    TrustRegionBlend(budget=0.2, warmup_steps=5),
    SpeculativeKD(top_k=3, teacher_temperature=0.6),
    Teacher(),
]
TOP_K = (1, 2, 4)


@pytest.fixture(scope="module")
def small() -> Case:
    return case(4)


def drawn(where: Case, law: Behaviour) -> list[Rollout]:
    """The responses of the law itself, by the same requests."""
    requests = [
        Request(request_id("response", q.prompt.id, sample), q.student_ids, q.teacher_ids)
        for q in where.questions
        for sample in range(2)
    ]
    return where.pair.engine.generate(
        requests,
        behaviour=law,
        clock=CLOCK,
        sampling=Sampling(where.pair.limit),
        seed=where.pair.seed,
        record=SignalSpec(),
    )


@pytest.mark.parametrize("law", [Student(), *LAWS[2:]], ids=lambda law: law.kind)
def test_watching_a_law_changes_none_of_its_tokens(small: Case, law: Behaviour) -> None:
    seen = small.asked(law, samples=2, top_k=TOP_K)
    plain = drawn(small, law)
    assert [r.rollout.ids.tolist() for r in seen.responses] == [r.ids.tolist() for r in plain]
    for one, own in zip(seen.responses, plain, strict=True):
        assert_close(one.rollout.behaviour_logp, own.behaviour_logp, atol=1e-4, rtol=1e-4)
        assert set(own.stats) <= set(one.rollout.stats)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.kind)
def test_a_watched_law_is_the_law(law: Behaviour) -> None:
    p, q = torch.randn(2, 5, 7).log_softmax(-1)
    inputs = {"clock": CLOCK, "position": torch.zeros(5)}
    needed = q if law.needs_teacher(CLOCK) else None
    own = law(student_logp=p, teacher_logp=needed, **inputs)
    seen = Watched(law=law, top_k=TOP_K)(student_logp=p, teacher_logp=q, **inputs)
    assert torch.equal(seen.logp, own.logp)
    assert (seen.keeps is None) == (own.keeps is None)
    for name, values in own.stats.items():
        assert torch.equal(seen.stats[name], values)


def naive(p: Tensor, q: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """Everything that is written down at each token, from log p and log q [T, V]."""
    chosen = ids[:, None]
    found = {
        "teacher_entropy": -(q.exp() * q).sum(-1),
        "student_entropy": -(p.exp() * p).sum(-1),
        "teacher_logprob": q.gather(1, chosen)[:, 0],
        "log_ratio": (q - p).gather(1, chosen)[:, 0],
        REVERSE_KL: (p.exp() * (p - q)).sum(-1),
        OUTLIER: (p.exp() - q.exp()).abs().sum(-1) / 2,
    }
    for k in TOP_K:
        edge = q.sort(-1, descending=True).values[:, k - 1 : k]
        found[f"{OUTSIDE}{k}"] = (p.exp() * (q < edge)).sum(-1)
    return found


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.kind)
def test_every_number_of_a_token_is_that_of_uncached_forwards(small: Case, law: Behaviour) -> None:
    seen = small.asked(law, samples=2, top_k=TOP_K)
    expected: dict[str, list[Tensor]] = {}
    for one in seen.responses:
        p, q = plain_logp(small.pair, one.question, one.rollout.ids)
        for name, values in naive(p, q, one.rollout.ids).items():
            expected.setdefault(name, []).append(values)
    for name, parts in expected.items():
        own = torch.from_numpy(seen.tokens.columns[name])
        # The models' weights are bf16 or fp32; both sides compute in fp32.
        assert_close(own, torch.cat(parts), atol=2e-4, rtol=2e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_the_exponents_are_those_of_the_budget_at_the_visited_prefixes(small: Case) -> None:
    budget = 0.05
    seen = small.asked(FixedBudgetBlend(budget=budget), samples=2)
    for one in seen.responses:
        p, q = plain_logp(small.pair, one.question, one.rollout.ids)
        exponent = one.rollout.stats["exponent"].double()[:, None]
        mixed = torch.log_softmax((1 - exponent) * p + exponent * q, -1)
        spent = (mixed.exp() * (mixed - p)).sum(-1)
        assert_close(one.rollout.stats["kl_spent"].double(), spent, atol=5e-5, rtol=5e-3)
        assert bool((spent <= budget * 1.01 + 1e-5).all())
        # Wherever the teacher is not reached, the budget is spent.
        short = exponent[:, 0] < 1 - 1e-6
        assert_close(spent[short], torch.full_like(spent[short], budget), atol=1e-4, rtol=1e-2)


def test_the_share_that_skd_replaces_is_the_students_mass_outside_the_teachers_ids(
    small: Case,
) -> None:
    law = SpeculativeKD(top_k=4, teacher_temperature=0.2)
    columns = small.asked(law, samples=2, top_k=TOP_K).tokens.columns
    assert columns["replaced"].max() > 0.01
    assert abs(columns["replaced"] - columns[f"{OUTSIDE}4"]).max() < 1e-5


def test_a_watched_law_asks_the_teacher_at_every_clock() -> None:
    watched = Watched(law=TrustRegionBlend(budget=0.2, warmup_steps=5))
    late = CLOCK.__class__(7, 10)
    assert not watched.law.needs_teacher(late) and watched.needs_teacher(late)
    p, q = torch.randn(2, 3, 6).log_softmax(-1)
    law = watched(student_logp=p, teacher_logp=q, clock=late, position=torch.zeros(3))
    assert law.logp is p and float(law.stats["exponent"].abs().max()) == 0.0
