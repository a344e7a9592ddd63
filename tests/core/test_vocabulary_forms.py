"""Divergences over the whole vocabulary whose gradients are written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest
import torch
from torch import Tensor

from oracles import jsd as oracle
from tandem.core.divergences import entropy, forward_kl, generalised_jsd, kl, skew_kl
from tandem.core.support import Scored, reverse_kl_full
from tandem.core.vocabulary_forms import (
    forward_kl_full,
    generalised_jsd_full,
    skew_forward_kl_full,
    skew_reverse_kl_full,
)

LN2, LN3 = math.log(2.0), math.log(3.0)
Form = Callable[..., tuple[Scored, Tensor]]
Plain = Callable[[Tensor, Tensor], Tensor]
Ends = Literal["special", "scaled"]


def _scaled(p: oracle.Law, q: oracle.Law, beta: float) -> complex:
    return oracle.jsd(p, q, beta) / (beta * (1 - beta))


def _jsd(beta: float, ends: Ends = "special") -> tuple[Form, Plain, oracle.Divergence]:
    def plain(log_p: Tensor, log_q: Tensor) -> Tensor:
        return generalised_jsd(log_p=log_p, log_q=log_q, beta=beta, ends=ends)

    truth = oracle.jsd if ends == "special" else _scaled
    return partial(generalised_jsd_full, beta=beta, ends=ends), plain, partial(truth, beta=beta)


def _skew(direction: str, alpha: float) -> tuple[Form, Plain, oracle.Divergence]:
    if direction == "forward":
        return (
            partial(skew_forward_kl_full, alpha=alpha),
            lambda log_p, log_q: skew_kl(log_p=log_q, log_q=log_p, alpha=alpha),
            partial(oracle.skew_forward, alpha=alpha),
        )
    return (
        partial(skew_reverse_kl_full, alpha=alpha),
        lambda log_p, log_q: skew_kl(log_p=log_p, log_q=log_q, alpha=alpha),
        partial(oracle.skew_reverse, alpha=alpha),
    )


FORWARD: tuple[Form, Plain, oracle.Divergence] = (
    forward_kl_full,
    lambda log_p, log_q: forward_kl(student_logp=log_p, teacher_logp=log_q),
    oracle.forward_kl,
)
FORMS = {
    "forward": FORWARD,
    "jsd-.5": _jsd(0.5),
    "jsd-.1": _jsd(0.1),
    "jsd-.9-scaled": _jsd(0.9, "scaled"),
    "skew-forward": _skew("forward", 0.1),
    "skew-reverse": _skew("reverse", 0.1),
    "skew-reverse-.7": _skew("reverse", 0.7),
}
OVER_FORMS = pytest.mark.parametrize("case", FORMS.values(), ids=FORMS.keys())
BOUNDED = [name for name in FORMS if name != "forward"]


def rows(seed: int, n: int = 20, v: int = 13) -> tuple[Tensor, Tensor]:
    """float64 logits [N, V] and teacher log-probs [N, V]."""
    generator = torch.Generator().manual_seed(seed)
    z, a = 2.0 * torch.randn(2, n, v, generator=generator, dtype=torch.float64)
    return z, torch.log_softmax(a, -1)


def of_form(form: Form, z: Tensor, log_q: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    leaf = z.clone().requires_grad_()
    scored, _ = form(logits=leaf, log_q=log_q)
    return scored.value, torch.autograd.grad((weight * scored.surrogate).sum(), leaf)[0]


def of_autograd(plain: Plain, z: Tensor, log_q: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    leaf = z.clone().requires_grad_()
    value = plain(torch.log_softmax(leaf, -1), log_q)
    return value.detach(), torch.autograd.grad((weight * value).sum(), leaf)[0]


@pytest.mark.parametrize(
    "form, value, slope",
    [
        # p = (3/4, 1/4), q = (1/4, 3/4), m = (1/2, 1/2); the gradient is (slope, −slope).
        # KL(q‖p) = ½ ln 3 and p − q.
        (forward_kl_full, 0.5 * LN3, 0.5),
        # KL(q‖m) = KL(p‖m) = ¾ ln ³⁄₂ − ¼ ln 2; g = ½(ln ³⁄₂, −ln 2), p g centred = ³⁄₃₂ ln 3.
        (
            partial(generalised_jsd_full, beta=0.5, ends="special"),
            0.75 * LN3 - LN2,
            3 / 32 * LN3,
        ),
        (
            partial(generalised_jsd_full, beta=0.5, ends="scaled"),
            4 * (0.75 * LN3 - LN2),
            3 / 8 * LN3,
        ),
        # g = −½ q/m = (−¼, −¾), Σ p g = −³⁄₈: p (g − Σ p g) = ³⁄₄ · ¹⁄₈.
        (partial(skew_forward_kl_full, alpha=0.5), 0.75 * LN3 - LN2, 3 / 32),
        # g = log p/m − ½ p/m = (ln ³⁄₂ − ¾, −ln 2 − ¼); ³⁄₁₆ (g_0 − g_1) = ³⁄₁₆ (ln 3 − ½).
        (partial(skew_reverse_kl_full, alpha=0.5), 0.75 * LN3 - LN2, 3 / 16 * (LN3 - 0.5)),
    ],
)
def test_value_gradient_and_entropy_match_the_numbers_worked_by_hand(
    form: Form, value: float, slope: float
) -> None:
    logits = torch.tensor([[LN3, 0.0]], dtype=torch.float64)
    log_q = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    actual = of_form(form, logits, log_q, torch.ones(1).double())
    assert actual[0].item() == pytest.approx(value, abs=1e-15)
    assert actual[1][0].tolist() == pytest.approx([slope, -slope], abs=1e-15)
    uncertainty = form(logits=logits, log_q=log_q)[1].item()
    assert uncertainty == pytest.approx(2 * LN2 - 0.75 * LN3, abs=1e-15)


@OVER_FORMS
def test_value_and_gradient_match_the_naive_oracle(
    case: tuple[Form, Plain, oracle.Divergence],
) -> None:
    form, _, truth = case
    z, log_q = rows(1)
    value, gradient = of_form(form, z, log_q, torch.ones(len(z)).double())
    for n in range(len(z)):
        expected = oracle.summed(truth, z[n].tolist(), log_q[n].exp().tolist())
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


@OVER_FORMS
def test_the_written_gradient_is_autograds_with_masked_ids_and_weights(
    case: tuple[Form, Plain, oracle.Divergence],
) -> None:
    form, plain, _ = case
    z, log_q = rows(2)
    z[:, 3] = log_q[:, 3] = -torch.inf
    log_q[:5, 7] = -torch.inf  # masked by the teacher alone
    weight = torch.linspace(-1.0, 2.0, len(z), dtype=torch.float64)
    torch.testing.assert_close(
        of_form(form, z, log_q, weight), of_autograd(plain, z, log_q, weight)
    )
    torch.testing.assert_close(form(logits=z, log_q=log_q)[1], entropy(torch.log_softmax(z, -1)))


@pytest.mark.parametrize("name", BOUNDED)
def test_a_mixture_stays_finite_where_only_the_student_masks(name: str) -> None:
    form, plain, _ = FORMS[name]
    z, log_q = rows(3)
    z[:5, 7] = -torch.inf
    weight = torch.ones(len(z)).double()
    value, gradient = of_form(form, z, log_q, weight)
    assert value.isfinite().all() and gradient.isfinite().all()
    torch.testing.assert_close((value, gradient), of_autograd(plain, z, log_q, weight))


def test_the_forward_kl_is_infinite_with_a_finite_gradient_where_only_the_student_masks() -> None:
    z, log_q = rows(4)
    z[0, 2] = -torch.inf
    value, gradient = of_form(forward_kl_full, z, log_q, torch.ones(len(z)).double())
    assert value[0].item() == math.inf and value[1:].isfinite().all()
    assert gradient.isfinite().all()
    expected = of_autograd(FORWARD[1], z, log_q, torch.ones(len(z)).double())[1]
    torch.testing.assert_close(gradient, expected)


@OVER_FORMS
def test_fp32_is_as_close_to_the_truth_as_autograd_is(
    case: tuple[Form, Plain, oracle.Divergence],
) -> None:
    form, plain, _ = case
    z, log_q = rows(5, n=200)
    weight = torch.ones(len(z))
    truth = of_form(form, z, log_q, weight.double())
    ours = of_form(form, z.float(), log_q.float(), weight)
    theirs = of_autograd(plain, z.float(), log_q.float(), weight)
    for exact, mine, other in zip(truth, ours, theirs, strict=True):
        error = (mine.double() - exact).abs().mean()
        assert error <= (other.double() - exact).abs().mean() + 1e-8


@pytest.mark.parametrize("beta", [1e-6, 1e-4, 1 - 1e-4])
def test_the_scaled_jsd_keeps_its_digits_near_its_ends_in_fp32(beta: float) -> None:
    z, log_q = rows(6)
    log_q = torch.log_softmax(z + 0.3 * log_q, -1)
    weight = torch.ones(len(z))
    form = partial(generalised_jsd_full, beta=beta, ends="scaled")
    truth = of_autograd(_jsd(beta, "scaled")[1], z, log_q, weight.double())
    ours = of_form(form, z.float(), log_q.float(), weight)
    for exact, mine in zip(truth, ours, strict=True):
        assert (mine.double() - exact).abs().max() < 2e-5
    end = forward_kl_full if beta < 0.5 else reverse_kl_full
    limit = of_form(end, z, log_q, weight.double())
    torch.testing.assert_close(truth, limit, atol=20 * min(beta, 1 - beta) + 1e-8, rtol=0.0)


@pytest.mark.parametrize("ends", ["special", "scaled"])
def test_at_its_ends_the_jsd_is_the_forward_and_the_reverse_kl(ends: Ends) -> None:
    z, log_q = rows(7)
    one = torch.ones(len(z)).double()
    at_0 = of_form(partial(generalised_jsd_full, beta=0.0, ends=ends), z, log_q, one)
    at_1 = of_form(partial(generalised_jsd_full, beta=1.0, ends=ends), z, log_q, one)
    torch.testing.assert_close(at_0, of_autograd(FORWARD[1], z, log_q, one))
    torch.testing.assert_close(
        at_1, of_autograd(lambda log_p, log_q: kl(log_p=log_p, log_q=log_q), z, log_q, one)
    )


def test_without_skew_they_are_the_forward_and_the_reverse_kl() -> None:
    z, log_q = rows(8)
    one = torch.ones(len(z)).double()
    forward = of_form(partial(skew_forward_kl_full, alpha=0.0), z, log_q, one)
    reverse = of_form(partial(skew_reverse_kl_full, alpha=0.0), z, log_q, one)
    torch.testing.assert_close(forward, of_form(forward_kl_full, z, log_q, one))
    torch.testing.assert_close(reverse, of_form(reverse_kl_full, z, log_q, one))


@OVER_FORMS
def test_value_and_gradient_are_0_where_the_models_agree(
    case: tuple[Form, Plain, oracle.Divergence],
) -> None:
    z, _ = rows(9)
    value, gradient = of_form(case[0], z, torch.log_softmax(z, -1), torch.ones(len(z)).double())
    assert value.abs().max() < 1e-14 and gradient.abs().max() < 1e-14


@OVER_FORMS
def test_large_logits_neither_overflow_nor_cost_digits(
    case: tuple[Form, Plain, oracle.Divergence],
) -> None:
    z, log_q = rows(12)
    z = (z * 64).round() / 64  # so that 512 more is exact in fp32
    one = torch.ones(len(z))
    expected = of_form(case[0], z.float(), log_q.float(), one)
    torch.testing.assert_close(of_form(case[0], z.float() + 512.0, log_q.float(), one), expected)


@OVER_FORMS
def test_the_inputs_are_left_as_they_were(case: tuple[Form, Plain, oracle.Divergence]) -> None:
    z, log_q = rows(10)
    z_before, q_before = z.clone(), log_q.clone()
    of_form(case[0], z, log_q, torch.ones(len(z)).double())
    case[0](logits=z, log_q=log_q)
    assert torch.equal(z, z_before) and torch.equal(log_q, q_before)


@OVER_FORMS
@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_nan_is_not_hidden(case: tuple[Form, Plain, oracle.Divergence], model: str) -> None:
    z, log_q = rows(11)
    (z if model == "student" else log_q)[0, 4] = math.nan
    value, _ = of_form(case[0], z, log_q, torch.ones(len(z)).double())
    assert value[0].isnan() and value[1:].isfinite().all()
