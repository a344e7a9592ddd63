"""The checks that a method has to pass, ours or one from a file; each is a finding in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tandem.behaviours.base import Behaviour, Law
from tandem.behaviours.student import Student
from tandem.contract.enumeration import (
    World,
    declared_gradient,
    expected_gradient,
    law_at,
    make_world,
    score_once,
)
from tandem.contract.finding import TOLERANCE, Finding
from tandem.contract.plans import drawn_batch, ids_of, plan_findings
from tandem.objectives.base import Objective
from tandem.types import Author, Clock

# The laws are fp32; their sums and the blend's exponent are not exact.
LAW_TOLERANCE = 1e-5
SEEDS = (1, 2, 3)
OWN_RULE = "a rule of its own for drafts draws from its law"
CLOCKS = (Clock(0, 20), Clock(3, 20), Clock(19, 20))


def check_behaviour(behaviour: Behaviour) -> list[Finding]:
    """Whether its laws are laws, and whether what it says of itself is true."""
    # Wide enough for the supports of published settings.
    worlds = [
        replace(make_world(seed, prefixes=6, vocabulary=64), clock=clock)
        for seed in SEEDS
        for clock in CLOCKS
    ]
    return [
        _laws_sum_to_one(behaviour, worlds),
        _forbidden_ids_stay_forbidden(behaviour, worlds),
        _rows_do_not_meet(behaviour, worlds),
        _says_when_it_is_the_student(behaviour, worlds),
        _its_own_rule_draws_from_its_law(behaviour, worlds),
    ]


def check_objective(
    objective: Objective, behaviours: Sequence[Behaviour] | None = None
) -> list[Finding]:
    """Whether it follows the gradient it declares, wherever it may be used, and however its tokens
    are split. behaviours: those whose combination is enumerated; the student alone by default."""
    findings: list[Finding] = []
    refused: dict[str, str] = {}
    for behaviour in behaviours or (Student(),):
        reason = refusal(objective, behaviour)
        if reason is not None:
            refused[behaviour.kind] = reason
        else:
            findings.append(_follows_what_it_declares(objective, behaviour))
    if refused:
        first = next(iter(refused.values()))
        findings.append(Finding(f"refused under {', '.join(refused)}", True, first))
    return [
        *findings,
        _split_changes_nothing(objective),
        _padding_changes_nothing(objective),
        _at_rest_where_the_models_agree(objective),
        *plan_findings(objective),
    ]


def refusal(objective: Objective, behaviour: Behaviour, *, updates: int = 1) -> str | None:
    """Why the two may not be combined; None where they may."""
    try:
        objective.check(behaviour, updates_per_rollout=updates)
    except ValueError as reason:
        return str(reason)
    return None


def author_of(behaviour: Behaviour, clock: Clock) -> Author:
    """Whose tokens an objective trains on there: given ones where the behaviour gives whole
    responses and draws nothing."""
    return Author.TEACHER if behaviour.gives() else behaviour.author(clock)


def _laws_sum_to_one(behaviour: Behaviour, worlds: Sequence[World]) -> Finding:
    worst = 0.0
    finite = True
    for world in worlds:
        law = _raw_law(behaviour, world)
        worst = max(worst, float((law.exp().sum(-1) - 1).abs().max()))
        finite &= not bool(law.isnan().any())
    detail = f"largest |sum − 1| {worst:.1e} over {len(worlds)} × {worlds[0].teacher_logp.shape[0]}"
    return Finding("laws sum to one", finite and worst < LAW_TOLERANCE, detail + " prefixes")


def _forbidden_ids_stay_forbidden(behaviour: Behaviour, worlds: Sequence[World]) -> Finding:
    holds = True
    for world in worlds:
        logits, teacher = world.student_logits.clone(), world.teacher_logp.clone()
        logits[:, -2:], teacher[:, -2:] = -torch.inf, -torch.inf
        masked = replace(world, student_logits=logits, teacher_logp=torch.log_softmax(teacher, -1))
        law = _raw_law(behaviour, masked)
        total = (law.exp().sum(-1) - 1).abs().max()
        holds &= bool((law[:, -2:] == -torch.inf).all()) and float(total) < LAW_TOLERANCE
    return Finding(
        "ids forbidden in both models have no mass", holds, "the last two of each row masked"
    )


def _rows_do_not_meet(behaviour: Behaviour, worlds: Sequence[World]) -> Finding:
    worst = 0.0
    for world in worlds:
        together = _raw_law(behaviour, world).exp()
        for i in range(len(together)):
            alone = _raw_law(behaviour, _row(world, i), position=i).exp()
            worst = max(worst, float((together[i] - alone[0]).abs().max()))
    return Finding(
        "a row's law does not depend on its company", worst < LAW_TOLERANCE, f"{worst:.1e}"
    )


def _says_when_it_is_the_student(behaviour: Behaviour, worlds: Sequence[World]) -> Finding:
    worst = 0.0
    for world in worlds:
        if behaviour.is_student(world.clock) or behaviour.is_always_student():
            law = _raw_law(behaviour, world).exp()
            student = torch.softmax(world.student_logits, -1)
            worst = max(worst, float((law - student).abs().max()))
    claim = "it is the student's law where it says so"
    return Finding(claim, worst < LAW_TOLERANCE, f"largest difference {worst:.1e}")


def _its_own_rule_draws_from_its_law(behaviour: Behaviour, worlds: Sequence[World]) -> Finding:
    """log μ = log(p·keeps + (Σ p over the rest)·replacement), where a law has a rule of its own."""
    worst = 0.0
    for world in worlds:
        law = _whole_law(behaviour, world)
        if law.keeps is None or law.replacement is None:
            if (law.keeps is None) != (law.replacement is None):
                return Finding(OWN_RULE, False, "it gives one of `keeps` and `replacement`")
            continue
        p = torch.softmax(world.student_logits, -1)
        rest = p.masked_fill(law.keeps, 0.0).sum(-1, keepdim=True)
        drawn = p * law.keeps + rest * law.replacement.double().exp()
        worst = max(worst, float((drawn - law.logp.double().exp()).abs().max()))
    return Finding(OWN_RULE, worst < LAW_TOLERANCE, f"largest difference {worst:.1e}")


def _follows_what_it_declares(objective: Objective, behaviour: Behaviour) -> Finding:
    claim = f"under {behaviour.kind}: follows what it declares"
    worst, size = 0.0, 0.0
    for seed in SEEDS:
        world = make_world(seed, vocabulary=ids_of(objective))
        law = law_at(behaviour, world)
        author = author_of(behaviour, world.clock)
        declared = declared_gradient(objective, law, world)
        if declared is None:
            return Finding(claim, False, "it declares nothing: write `declared`")
        found, _ = expected_gradient(objective, law, world, author=author)
        worst = max(worst, float((found - declared).abs().max()))
        size = max(size, float(declared.abs().max()))
    detail = f"largest difference {worst:.1e}, gradients up to {size:.1e}"
    return Finding(claim, worst <= TOLERANCE * max(1.0, size), detail)


def _parts(objective: Objective, pieces: Sequence[slice]) -> tuple[Tensor, dict[str, Tensor]]:
    logits, tokens, signal, clock = drawn_batch(objective, 5)
    weight = torch.linspace(0.0, 2.0, len(tokens), dtype=torch.float64)
    gradients: list[Tensor] = []
    metrics: dict[str, Tensor] = {}
    for piece in pieces:
        loss, gradient = score_once(
            objective, logits[piece], tokens[piece], signal[piece], weight[piece], clock
        )
        gradients.append(gradient)
        for name, (total, count) in loss.metrics.items():
            pair = torch.stack([total.double(), torch.as_tensor(count).double()])
            metrics[name] = metrics[name] + pair if name in metrics else pair
    return torch.cat(gradients), metrics


def _split_changes_nothing(objective: Objective) -> Finding:
    whole, metrics = _parts(objective, [slice(0, 12)])
    split, others = _parts(objective, [slice(0, 1), slice(1, 6), slice(6, 12)])
    worst = float((whole - split).abs().max())
    for name, pair in metrics.items():
        worst = max(worst, float((pair - others[name]).abs().max()))
    claim = "a split into chunks changes neither gradient nor metrics"
    return Finding(claim, worst < TOLERANCE, f"largest difference {worst:.1e}")


def _padding_changes_nothing(objective: Objective) -> Finding:
    logits, tokens, signal, clock = drawn_batch(objective, 6)
    weight = torch.ones(len(tokens), dtype=torch.float64)
    weight[8:] = 0.0
    some = slice(0, 8)
    _, padded = score_once(objective, logits, tokens, signal, weight, clock)
    _, alone = score_once(objective, logits[some], tokens[some], signal[some], weight[some], clock)
    worst = max(float((padded[:8] - alone).abs().max()), float(padded[8:].abs().max()))
    claim = "tokens of weight 0 change nothing"
    return Finding(claim, worst < TOLERANCE, f"largest difference {worst:.1e}")


def _at_rest_where_the_models_agree(objective: Objective) -> Finding:
    claim = "teacher = student: gradient zero, or as declared"
    world = make_world(7, vocabulary=ids_of(objective))
    same = torch.log_softmax(world.student_logits, -1)
    world = replace(world, teacher_logp=same, reference_logp=same)
    found, _ = expected_gradient(objective, same, world, author=Author.TEACHER)
    declared = declared_gradient(objective, same, world)
    size = float(found.abs().max())
    if size < TOLERANCE:
        return Finding(claim, True, f"{size:.1e}")
    if declared is None:
        return Finding(claim, False, f"{size:.1e}, and nothing is declared")
    worst = float((found - declared).abs().max())
    return Finding(claim, worst < TOLERANCE, f"another fixed point, as declared: {size:.1e}")


def _raw_law(behaviour: Behaviour, world: World, *, position: int = 0) -> Tensor:
    return _whole_law(behaviour, world, position=position).logp.double()


def _whole_law(behaviour: Behaviour, world: World, *, position: int = 0) -> Law:
    n = world.teacher_logp.shape[0]
    return behaviour(
        student_logp=torch.log_softmax(world.student_logits, -1).float(),
        teacher_logp=(world.teacher_logp.float() if behaviour.needs_teacher(world.clock) else None),
        clock=world.clock,
        position=torch.arange(position, position + n),
    )


def _row(world: World, i: int) -> World:
    one = slice(i, i + 1)
    return World(world.student_logits[one], world.teacher_logp[one], world.clock)


def failures(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings that do not hold, in words."""
    for finding in findings:
        if not finding.holds:
            yield f"{finding.claim}: {finding.detail}"
