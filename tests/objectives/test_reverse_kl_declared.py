"""What ReverseKL declares is what it follows: every form, fresh and stale, by enumeration."""

from __future__ import annotations

import pytest
import torch

from tandem.behaviours import Behaviour, FixedExponentBlend, Student, Teacher
from tandem.contract.enumeration import declared_gradient, expected_gradient, law_at, make_world
from tandem.objectives import ReverseKL

FORMS = [
    ReverseKL(support="full"),
    ReverseKL(top_k=3),
    ReverseKL(top_k=3, tail="none"),
    ReverseKL(top_k=3, tail="none", realisation="autograd"),
    ReverseKL(top_k=3, tail="renormalise"),
    ReverseKL(top_k=3, tail="bucket"),
    ReverseKL(support="teacher_topk", top_k=3),
    ReverseKL(support="sampled", importance="exact"),
    ReverseKL(support="sampled", importance="exact", realisation="k2"),
    ReverseKL(support="sampled", importance="exact", baseline="expected"),
    ReverseKL(support="sampled", importance="truncated", importance_limit=1.2),
    ReverseKL(support="sampled", importance="clipped", importance_limit=0.2),
    ReverseKL(support="sampled", importance="clipped", importance_limit=0.2, baseline="expected"),
]


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("behaviour", [Student(), Teacher(), FixedExponentBlend(exponent=0.5)])
@pytest.mark.parametrize("objective", FORMS)
def test_declared_is_followed(objective: ReverseKL, behaviour: Behaviour, stale: bool) -> None:
    world = make_world(1, stale=stale)
    law = law_at(behaviour, world)
    found, _ = expected_gradient(objective, law, world)
    torch.testing.assert_close(found, declared_gradient(objective, law, world))


@pytest.mark.parametrize("support", ["full", "sampled"])
def test_exact_forms_follow_the_divergence_itself(support: str) -> None:
    world = make_world(2, stale=True)
    law = law_at(Teacher(), world)
    fields = {"importance": "exact"} if support == "sampled" else {}
    found, _ = expected_gradient(
        ReverseKL.model_validate({"support": support} | fields), law, world
    )
    p = torch.softmax(world.student_logits, -1)
    ratio = p.log() - world.teacher_logp
    truth = p * (ratio - (p * ratio).sum(-1, keepdim=True))
    torch.testing.assert_close(found, truth)
