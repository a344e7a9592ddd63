"""The blend at its ends and in its traps: masks, ties, certainty, precision, given exponents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from blend_rows import (
    BUDGETS,
    INF,
    check_against_oracle,
    check_row,
    exact,
    pair,
    solve,
    tolerance,
)

from oracles import blend as oracle
from tandem.core.blend import blend_logp
from tandem.core.divergences import kl

pytestmark = pytest.mark.usefixtures("both_ways")


def test_masks_of_a_finite_lowest_number_are_masks() -> None:
    p, q = pair(20, 20, masked=0.3, one_sided=0.1)
    lowest = torch.finfo(torch.float32).min
    one = solve(p.clamp(min=lowest), q.clamp(min=lowest), 0.3)
    other = solve(p, q, 0.3)
    torch.testing.assert_close(one.exponent, other.exponent, rtol=0, atol=0)
    torch.testing.assert_close(one.kl, other.kl, rtol=0, atol=0)


@pytest.mark.parametrize("budget", BUDGETS)
def test_ties_keep_equal_ids_equal(budget: float) -> None:
    p, q = pair(20, 6)
    p, q = (x.repeat(1, 3).log_softmax(-1) for x in (p, q))
    check_against_oracle(p, q, budget)
    law = solve(p, q, budget).logp.view(20, 3, 6)
    assert torch.equal(law[:, 0], law[:, 1]) and torch.equal(law[:, 0], law[:, 2])


def test_identical_rows_give_the_teacher_at_no_cost_for_any_budget() -> None:
    p, _ = pair(30, 500, spread=5.0, masked=0.2)
    for budget in (1e-9, 1e-4, 1.0):
        solution = solve(p, p.clone(), budget)
        assert (solution.exponent == 1).all() and (solution.kl == 0).all()
        assert torch.equal(solution.logp, p)


@pytest.mark.parametrize("budget", [0.01, 1.0, 100.0, INF])
def test_disjoint_supports_leave_the_student(budget: float) -> None:
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.3, 0.0, 0.7, 0.0]]).log()
    q = torch.tensor([[0.0, 0.0, 0.1, 0.9], [0.0, 1.0, 0.0, 0.0]]).log()
    solution = solve(p, q, budget)
    assert (solution.exponent == 0).all() and (solution.kl == 0).all()
    assert torch.equal(solution.logp, p)


def test_support_that_alone_costs_more_than_the_budget_leaves_the_student() -> None:
    # p(supp q) = 0.9: every blend costs at least −log 0.9 = 0.105.
    p, q = torch.tensor([0.6, 0.3, 0.1]).log(), torch.tensor([0.2, 0.8, 0.0]).log()
    below, above = solve(p, q, 0.105), solve(p, q, 0.12)
    assert below.exponent == 0 and below.kl == 0 and torch.equal(below.logp, p)
    assert 0 < above.exponent < 1 and above.logp[2] == -INF
    assert above.kl.item() == pytest.approx(0.12, abs=tolerance(0.12))


def test_exponent_one_is_the_teacher_renormalised_on_the_students_support() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.3, 0.3, 0.4]).log()
    solution = solve(p, q, 0.01)
    assert solution.exponent == 1 and solution.kl.item() == pytest.approx(0, abs=1e-6)
    assert solution.logp.exp().tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_a_common_support_of_no_mass_in_fp32_for_the_teacher_is_blended_all_the_same() -> None:
    # exp(−200) is 0 in fp32; given the two ids that both have, the teacher is (0.1, 0.9).
    p = torch.tensor([0.6, 0.4, 0.0]).log()
    q = torch.tensor([math.log(0.1) - 200, math.log(0.9) - 200, 0.0])
    inside = torch.tensor([0.1, 0.9, 0.0]).log()
    for budget in (0.01, 0.2, 1.0):
        solution, conditioned = solve(p, q, budget), solve(p, inside, budget)
        assert solution.exponent.item() == pytest.approx(conditioned.exponent.item(), rel=1e-3)
        assert solution.kl.item() == pytest.approx(conditioned.kl.item(), abs=tolerance(budget))
        assert 0 < solution.exponent <= 1 and solution.logp[2] == -INF


def test_a_common_support_of_no_mass_in_fp32_for_the_student_costs_what_it_costs() -> None:
    # Reaching the second id costs 200 nats: less than that leaves the student, more the teacher.
    p, q = torch.tensor([0.0, -200.0]), torch.tensor([-INF, 0.0])
    below, above = solve(p, q, 199.0), solve(p, q, 201.0)
    assert below.exponent == 0 and below.kl == 0 and torch.equal(below.logp, p)
    assert above.exponent == 1 and above.kl == 200 and torch.equal(above.logp, q)
    logp, spent = blend_logp(student_logp=p, teacher_logp=q, exponent=0.5)
    assert torch.equal(logp, q) and spent == 200


@pytest.mark.parametrize("budget", BUDGETS)
def test_log_ratios_of_thousands_of_nats_are_blended(budget: float) -> None:
    # Half-way between the models both tokens have weights of e^−2500: 0 in every precision.
    p, q = torch.tensor([[0.0, -5e3], [0.0, -8e3]]), torch.tensor([[-5e3, 0.0], [-5e3, 0.0]])
    check_against_oracle(p, q, budget)


@pytest.mark.parametrize("budget", BUDGETS)
def test_where_no_fp32_exponent_spends_the_budget_what_is_spent_is_less(budget: float) -> None:
    # From one fp32 exponent to the next the cost changes by far more than the tolerance.
    for gap in (1e6, 3e6, 1e7, 1e8):
        p, q = torch.tensor([0.0, -gap]), torch.tensor([-gap, 0.0])
        solution = solve(p, q, budget)
        real = oracle.spent(exact(solution.logp), exact(p))
        assert real <= budget + tolerance(budget)
        assert solution.kl.item() == pytest.approx(real, rel=1e-4, abs=1e-6)
        assert solution.exponent.item() == pytest.approx(0.5, abs=1e-4)


def test_budget_of_zero_or_less_is_the_student_bit_for_bit() -> None:
    p, q = pair(30, 300, masked=0.1, one_sided=0.05)
    for budget in (0.0, -1.0, torch.zeros(30)):
        solution = solve(p, q, budget)
        assert torch.equal(solution.logp, p)
        assert (solution.exponent == 0).all() and (solution.kl == 0).all()


def test_budget_of_at_least_the_whole_divergence_is_the_teacher_bit_for_bit() -> None:
    p, q = pair(30, 300, masked=0.1)
    whole = kl(log_p=q.double(), log_q=p.double())
    for budget in (whole.float() * 1.001, INF):
        solution = solve(p, q, budget)
        assert (solution.exponent == 1).all() and torch.equal(solution.logp, q)
        torch.testing.assert_close(solution.kl.double(), whole, rtol=1e-5, atol=1e-6)


def test_inputs_are_left_alone_and_no_gradient_flows() -> None:
    p, q = pair(20, 30, one_sided=0.1)
    p, q = p.requires_grad_(), q.requires_grad_()
    before = p.detach().clone(), q.detach().clone()
    solution = solve(p, q, 0.05)
    assert torch.equal(p, before[0]) and torch.equal(q, before[1])
    assert not solution.logp.requires_grad
    solution.logp.zero_()
    assert torch.equal(p, before[0]) and torch.equal(q, before[1])


@pytest.mark.parametrize("budget", BUDGETS)
def test_bf16_inputs_are_solved_for_the_laws_they_round_to(budget: float) -> None:
    p, q = (x.bfloat16() for x in pair(30, 200, spread=4.0, masked=0.1))
    # The law that bf16 log-probs stand for: renormalised in fp32.
    exact_p, exact_q = (x.float().log_softmax(-1) for x in (p, q))
    solution = solve(p, q, budget)
    assert solution.logp.dtype == solution.kl.dtype == torch.float32
    for i in range(30):
        exponent, spent = solution.exponent[i].item(), solution.kl[i].item()
        check_row(exact_p[i], exact_q[i], budget, exponent, spent, solution.logp[i])


def test_float64_inputs_are_solved_in_float64() -> None:
    p, q = (x.double().log_softmax(-1) for x in pair(10, 30))
    solution = solve(p, q, 0.01)
    assert solution.logp.dtype == torch.float64
    real = kl(log_p=solution.logp, log_q=p)
    torch.testing.assert_close(solution.kl, real, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(solution.logp.exp().sum(-1), torch.ones(10).double())


def test_nan_is_refused_as_a_budget_and_stops_the_run_in_a_model() -> None:
    p, q = pair(3, 20)
    with pytest.raises(ValueError, match="budget is nan: give a number of nats"):
        solve(p, q, math.nan)
    broken = q.clone()
    broken[1, 3] = math.nan
    with pytest.raises(AssertionError, match="log-probs hold nan"):
        solve(p, broken, 0.1)
    # Nor does a row whose supports differ lose it.
    p[1, 4] = -math.inf
    with pytest.raises(AssertionError, match="log-probs hold nan"):
        solve(p, broken, 0.1)


def test_a_given_exponent_is_blended_as_the_oracle_does() -> None:
    p, q = pair(20, 40, masked=0.1, one_sided=0.05)
    for exponent in (0.0, 1e-3, 0.3, 0.999, 1.0):
        logp, spent = blend_logp(student_logp=p, teacher_logp=q, exponent=exponent)
        for i in range(20):
            law = oracle.blend_row(exact(p[i]), exact(q[i]), exponent)
            np.testing.assert_allclose(np.exp(exact(logp[i])), np.exp(law), atol=1e-6)
            assert spent[i].item() == pytest.approx(oracle.spent(law, exact(p[i])), abs=1e-6)


def test_exponents_zero_and_one_are_the_models_bit_for_bit() -> None:
    p, q = pair(20, 40, masked=0.1)
    exponents = torch.tensor([0.0, 1.0]).repeat(10)
    logp, spent = blend_logp(student_logp=p, teacher_logp=q, exponent=exponents)
    assert torch.equal(logp[::2], p[::2]) and torch.equal(logp[1::2], q[1::2])
    assert (spent[::2] == 0).all()
    whole = kl(log_p=q, log_q=p)
    torch.testing.assert_close(spent[1::2], whole[1::2], rtol=1e-5, atol=1e-6)


def test_the_exponent_found_gives_back_the_law_and_its_cost() -> None:
    p, q = pair(30, 100, spread=5.0, gap=3.0)
    solution = solve(p, q, 0.05)
    logp, spent = blend_logp(student_logp=p, teacher_logp=q, exponent=solution.exponent)
    torch.testing.assert_close(logp, solution.logp, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(spent, solution.kl, rtol=1e-5, atol=5e-7)


@pytest.mark.parametrize("exponent", [-0.1, 1.01, math.nan])
def test_an_exponent_outside_the_unit_interval_is_refused_by_value(exponent: float) -> None:
    p, q = pair(2, 5)
    with pytest.raises(ValueError, match=f"exponent {exponent:g} is outside \\[0, 1\\]"):
        blend_logp(student_logp=p, teacher_logp=q, exponent=exponent)
