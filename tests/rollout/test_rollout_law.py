"""The joint law of a response is the product of its behaviour's laws, token by token."""

from __future__ import annotations

from collections import Counter

import pytest
from rollout_models import BLOCKS, CLOCK, engine_of, generate, joint_law, llama, qwen3, speakers

from tandem.behaviours import (
    ArithmeticMixture,
    Behaviour,
    FixedBudgetBlend,
    FixedExponentBlend,
    SpeculativeKD,
    Student,
    Teacher,
    TemperatureWarmup,
    TrustRegionBlend,
)
from tandem.models.speaker import Speaker
from tandem.rollout.pace import Block
from tandem.types import Request, Sampling

BEHAVIOURS: list[Behaviour] = [
    Student(),
    TemperatureWarmup(start_temperature=0.6, warmup_steps=10),
    TrustRegionBlend(budget=0.3, warmup_steps=10),
    FixedBudgetBlend(budget=0.02),
    FixedExponentBlend(exponent=0.55),
    ArithmeticMixture(weight=0.4),
    SpeculativeKD(top_k=2, teacher_temperature=0.6),
    Teacher(),
]
TAUGHT = [b for b in BEHAVIOURS if b.needs_teacher(CLOCK)]
SIZE, LENGTH = 5, 3
STUDENT_PROMPT, TEACHER_PROMPT = (1, 3, 2), (4, 1, 1, 2, 3, 2)


def standard_score(counts: Counter[tuple[int, ...]], law: dict[tuple[int, ...], float]) -> float:
    """Pearson's chi-square of counts against a law, as a standard normal (Wilson-Hilferty).

    Cells expected fewer than five times are pooled.
    """
    assert set(counts) <= set(law), "an outcome without probability"
    total = sum(counts.values())
    cells: list[tuple[float, int]] = []
    rare, rare_count = 0.0, 0
    for outcome, probability in law.items():
        if probability * total < 5:
            rare, rare_count = rare + probability * total, rare_count + counts[outcome]
        else:
            cells.append((probability * total, counts[outcome]))
    if rare > 0:
        cells.append((rare, rare_count))
    freedom = len(cells) - 1
    statistic = sum((count - expected) ** 2 / expected for expected, count in cells)
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5


def pair_of_five() -> tuple[Speaker, Speaker]:
    return speakers(
        qwen3(3, vocabulary=SIZE, sharpness=14.0),
        llama(4, vocabulary=SIZE, sharpness=14.0),
        size=SIZE,
    )


LAWS: dict[tuple[str, float], dict[tuple[int, ...], float]] = {}


def law_of(behaviour: Behaviour, temperature: float = 1.0) -> dict[tuple[int, ...], float]:
    key = (repr(behaviour), temperature)
    if key not in LAWS:
        LAWS[key] = enumerated(behaviour, temperature)
    return LAWS[key]


def enumerated(behaviour: Behaviour, temperature: float) -> dict[tuple[int, ...], float]:
    law = joint_law(
        *pair_of_five(),
        Request(0, STUDENT_PROMPT, TEACHER_PROMPT),
        behaviour,
        length=LENGTH,
        temperature=temperature,
    )
    assert sum(law.values()) == pytest.approx(1.0, abs=1e-5)
    return law


def counts_of(
    behaviour: Behaviour, samples: int, temperature: float = 1.0, *, block: Block = 1
) -> Counter[tuple[int, ...]]:
    requests = [Request(i, STUDENT_PROMPT, TEACHER_PROMPT) for i in range(samples)]
    sampling = Sampling(max_new_tokens=LENGTH, temperature=temperature)
    engine = engine_of(*pair_of_five(), slots=500, block=block)
    rollouts = generate(engine, requests, behaviour, sampling=sampling)
    return Counter(tuple(rollout.ids.tolist()) for rollout in rollouts)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
@pytest.mark.parametrize("block", BLOCKS)
def test_the_tokens_follow_the_enumerated_law(behaviour: Behaviour, block: Block) -> None:
    law = law_of(behaviour)
    assert abs(standard_score(counts_of(behaviour, 4_000, block=block), law)) < 4


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.kind)
@pytest.mark.parametrize("block", BLOCKS)
def test_the_tokens_follow_the_enumerated_law_at_40_000_samples(
    behaviour: Behaviour, block: Block
) -> None:
    law = law_of(behaviour)
    assert abs(standard_score(counts_of(behaviour, 40_000, block=block), law)) < 4


def test_temperature_acts_on_the_behaviour_s_law() -> None:
    blend = FixedBudgetBlend(budget=0.05)
    assert abs(standard_score(counts_of(blend, 4_000, 0.7), law_of(blend, 0.7))) < 4


def test_the_chi_square_tells_every_behaviour_from_every_other() -> None:
    for drawn in BEHAVIOURS:
        counts = counts_of(drawn, 2_000, block=2)
        for other in BEHAVIOURS:
            if other is not drawn:
                assert standard_score(counts, law_of(other)) > 5, (drawn.kind, other.kind)
