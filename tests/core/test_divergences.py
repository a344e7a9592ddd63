"""KL, entropy and generalised JSD: worked numbers, an oracle, gradients, zero mass."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oracles.divergences import entropy_of, jsd_of, kl_of
from tandem.core.divergences import entropy, forward_kl, generalised_jsd, kl, reverse_kl

INF = math.inf


def logs(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def random_logp(
    seed: int,
    *,
    rows: int = 4,
    size: int = 7,
    masked: float = 0.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """[rows, size] log-probs in float64, each id masked with the given chance, never all."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, size, generator=generator, dtype=torch.float64)
    off = torch.rand(rows, size, generator=generator) < masked
    off[:, 0] = False
    logp = logits.masked_fill(off, -INF).log_softmax(-1)
    return logp if dtype is None else logp.to(dtype)


def test_kl_of_a_fair_and_a_loaded_coin_is_the_number_worked_by_hand() -> None:
    # ½ log(½/¼) + ½ log(½/¾) = ½ log(4/3)
    assert kl(log_p=logs(0.5, 0.5), log_q=logs(0.25, 0.75)).item() == pytest.approx(
        0.5 * math.log(4 / 3), rel=1e-14
    )


def test_reverse_kl_is_student_first_and_forward_kl_teacher_first() -> None:
    student, teacher = logs(0.5, 0.5), logs(0.25, 0.75)
    assert reverse_kl(student_logp=student, teacher_logp=teacher).item() == pytest.approx(
        0.5 * math.log(4 / 3)
    )
    assert forward_kl(student_logp=student, teacher_logp=teacher).item() == pytest.approx(
        0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    )


@pytest.mark.parametrize("masked", [0.0, 0.4])
def test_kl_and_entropy_equal_the_oracle_with_and_without_masks(masked: float) -> None:
    p, q = random_logp(0, masked=masked), random_logp(1, masked=masked)
    for row_p, row_q, value, h in zip(p, q, kl(log_p=p, log_q=q), entropy(p), strict=True):
        assert value.item() == pytest.approx(kl_of(row_p.tolist(), row_q.tolist()), abs=1e-12)
        assert h.item() == pytest.approx(entropy_of(row_p.tolist()), abs=1e-12)


def test_an_id_without_mass_under_both_costs_nothing() -> None:
    p, q = logs(0.5, 0.5, 0.0), logs(0.25, 0.75, 0.0)
    assert kl(log_p=p, log_q=q).item() == pytest.approx(0.5 * math.log(4 / 3))
    assert entropy(p).item() == pytest.approx(math.log(2))


def test_kl_is_infinite_where_the_second_lacks_support_and_finite_the_other_way() -> None:
    narrow, wide = logs(1.0, 0.0), logs(0.5, 0.5)
    assert kl(log_p=wide, log_q=narrow).item() == INF
    assert kl(log_p=narrow, log_q=wide).item() == pytest.approx(math.log(2))


def test_kl_is_zero_iff_equal() -> None:
    p, q = random_logp(0, masked=0.3), random_logp(1)
    assert (kl(log_p=p, log_q=p) == 0).all()
    assert (kl(log_p=p, log_q=q) > 1e-3).all()


def value_of_logits(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Each divergence as a function of both logits."""

    def value(student: Tensor, teacher: Tensor) -> Tensor:
        p, q = student.log_softmax(-1), teacher.log_softmax(-1)
        if name == "entropy":
            return entropy(p) + 0 * q[..., 0]
        if name == "kl":
            return kl(log_p=p, log_q=q)
        form = "scaled" if name.startswith("scaled") else "special"
        beta = float(name.split("@")[1])
        return generalised_jsd(log_p=p, log_q=q, beta=beta, ends=form)

    return value


FORMS = ["kl", "entropy", "jsd@0", "jsd@0.3", "jsd@1", "scaled@0", "scaled@0.7", "scaled@1"]


@pytest.mark.parametrize("name", FORMS)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    student = random_logp(2, rows=2, size=5).requires_grad_()
    teacher = random_logp(3, rows=2, size=5).requires_grad_()
    assert torch.autograd.gradcheck(value_of_logits(name), (student, teacher))


def test_reverse_kl_gradient_is_its_closed_form_on_the_logits() -> None:
    # Enumerated: dKL/dz_j = p_j (log p_j − log q_j − KL).
    logits = random_logp(4).requires_grad_()
    q = random_logp(5)
    p = logits.log_softmax(-1)
    value = kl(log_p=p, log_q=q)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    expected = p.exp() * (p - q - value[:, None])
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FORMS)
def test_masked_ids_get_no_gradient_and_leave_the_others_that_of_the_smaller_vocabulary(
    name: str,
) -> None:
    value = value_of_logits(name)
    small = [random_logp(6, rows=3, size=4), random_logp(7, rows=3, size=4)]
    small = [x.clone().requires_grad_() for x in small]
    wide = [torch.cat([x.detach(), torch.full((3, 2), -INF)], -1).requires_grad_() for x in small]
    want = value(small[0], small[1])
    got = value(wide[0], wide[1])
    torch.testing.assert_close(got, want, rtol=1e-13, atol=0)
    for narrow, padded in zip(
        torch.autograd.grad(want.sum(), small), torch.autograd.grad(got.sum(), wide), strict=True
    ):
        assert (padded[:, 4:] == 0).all()
        torch.testing.assert_close(padded[:, :4], narrow, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["kl", "jsd@0", "jsd@0.3", "jsd@1", "scaled@0.7"])
def test_gradients_stay_finite_where_each_lacks_support_of_the_other(name: str) -> None:
    student = torch.tensor([[0.3, -1.0, -INF, 0.7, -INF]], dtype=torch.float64).requires_grad_()
    teacher = torch.tensor([[0.1, -INF, 0.4, -0.2, -INF]], dtype=torch.float64).requires_grad_()
    value = value_of_logits(name)(student, teacher)
    assert not value.isnan().any()
    for gradient in torch.autograd.grad(value.sum(), (student, teacher)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_generalised_jsd_equals_the_oracle_and_scaled_is_it_over_beta_one_minus_beta(
    beta: float,
) -> None:
    p, q = random_logp(8, masked=0.3), random_logp(9, masked=0.3)
    value = generalised_jsd(log_p=p, log_q=q, beta=beta, ends="special")
    scaled = generalised_jsd(log_p=p, log_q=q, beta=beta, ends="scaled")
    for row_p, row_q, one in zip(p, q, value, strict=True):
        assert one.item() == pytest.approx(jsd_of(row_p.tolist(), row_q.tolist(), beta), rel=1e-12)
    torch.testing.assert_close(scaled * beta * (1 - beta), value, rtol=1e-12, atol=1e-15)


def test_generalised_jsd_special_ends_are_forward_and_reverse_kl_and_are_a_jump() -> None:
    p, q = random_logp(10), random_logp(11)
    forward, reverse = kl(log_p=q, log_q=p), kl(log_p=p, log_q=q)
    at = {
        b: generalised_jsd(log_p=p, log_q=q, beta=b, ends="special") for b in (0, 1e-6, 1 - 1e-6, 1)
    }
    torch.testing.assert_close(at[0], forward)
    torch.testing.assert_close(at[1], reverse)
    assert (at[1e-6] < 1e-4 * forward).all() and (at[1 - 1e-6] < 1e-4 * reverse).all()


def test_scaled_generalised_jsd_is_continuous_at_both_ends() -> None:
    p, q = random_logp(10), random_logp(11)
    near_0 = generalised_jsd(log_p=p, log_q=q, beta=1e-6, ends="scaled")
    near_1 = generalised_jsd(log_p=p, log_q=q, beta=1 - 1e-6, ends="scaled")
    torch.testing.assert_close(near_0, kl(log_p=q, log_q=p), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(near_1, kl(log_p=p, log_q=q), rtol=1e-3, atol=1e-5)


def test_generalised_jsd_is_symmetric_under_exchange_of_models_and_of_beta() -> None:
    p, q = random_logp(12, masked=0.3), random_logp(13, masked=0.3)
    torch.testing.assert_close(
        generalised_jsd(log_p=p, log_q=q, beta=0.2, ends="special"),
        generalised_jsd(log_p=q, log_q=p, beta=0.8, ends="special"),
    )


@pytest.mark.parametrize("beta", [-0.1, 1.5, math.nan])
def test_a_weight_outside_the_unit_interval_is_refused_by_value(beta: float) -> None:
    with pytest.raises(ValueError, match=f"beta is {beta}, but a mixture weight lies between"):
        generalised_jsd(log_p=logs(1.0), log_q=logs(1.0), beta=beta, ends="special")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 40), masked=st.floats(0, 0.8))
def test_invariant_to_permutation_and_logit_shift_and_never_negative(
    seed: int, size: int, masked: float
) -> None:
    p = random_logp(seed, size=size, masked=masked)
    q = random_logp(seed + 1, size=size, masked=masked)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    shifted = (p + 3.0).log_softmax(-1)
    for value in (
        lambda a, b: kl(log_p=a, log_q=b),
        lambda a, b: generalised_jsd(log_p=a, log_q=b, beta=0.3, ends="special"),
    ):
        whole = value(p, q)
        assert (whole >= -1e-12).all()
        torch.testing.assert_close(value(p[:, order], q[:, order]), whole, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(value(shifted, q), whole, rtol=1e-9, atol=1e-12)


def test_entropy_is_log_of_the_count_for_a_uniform_law_and_zero_for_a_certain_one() -> None:
    assert entropy(logs(*[0.125] * 8)).item() == pytest.approx(math.log(8))
    assert entropy(logs(1.0, 0.0, 0.0)).item() == 0.0


def test_fp32_error_is_no_worse_than_rounding_of_the_inputs_explains() -> None:
    p, q = random_logp(14, size=5000), random_logp(15, size=5000)
    low = kl(log_p=p.float(), log_q=q.float()).double()
    torch.testing.assert_close(low, kl(log_p=p, log_q=q), rtol=2e-6, atol=2e-6)
