from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from oracles import objectives as oracle
from tandem.core import support
from tandem.core.divergences import kl
from tandem.core.support import Scored

FORMS: dict[str, tuple[Callable[..., Scored], Callable[..., oracle.Result]]] = {
    "plain": (support.reverse_kl_plain, oracle.plain),
    "detached": (support.reverse_kl_detached, oracle.detached),
    "weights": (support.reverse_kl_weights_renormalised, oracle.weights_renormalised),
    "renormalised": (support.reverse_kl_renormalised, oracle.renormalised),
    "bucket": (support.reverse_kl_bucket, oracle.bucket),
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)
LN2 = math.log(2.0)


def score(form: str, logits: Tensor, log_q: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(value [N], gradient of the surrogate's sum [N, V]) of a form, log_q over the vocabulary."""
    leaf = logits.detach().clone().requires_grad_()
    log_p = support.log_softmax_at(logits=leaf, ids=ids)
    scored = FORMS[form][0](log_p=log_p, log_q=log_q.gather(-1, ids))
    assert not scored.value.requires_grad
    (gradient,) = torch.autograd.grad(scored.surrogate.sum(), leaf)
    return scored.value, gradient


def batch(
    seed: int, *, rows: int = 24, vocabulary: int = 11, size: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """float64 logits [N, V], teacher log-probs [N, V], and the student's top-k ids [N, K]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64)
    return logits, torch.log_softmax(logits + noise, -1), logits.topk(size).indices


def row(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


# ------------------------------------------------------------------ by hand

# p = (1/2, 1/4, 1/4), q = (1/4, 1/8, 5/8), K = {0, 1}: both log-ratios are ln 2, m = 3/4,
# m_T = 3/8. Then sum_K p l (e − p) = ln 2 · (1/8, 1/16, −3/16), and ∇m is that without the ln 2.
HAND_D = 0.75 * LN2 + 0.25 * math.log(0.4)
BY_HAND = {
    "plain": (0.75 * LN2, [(LN2 + 1) / 8, (LN2 + 1) / 16, -3 * (LN2 + 1) / 16]),
    "detached": (0.75 * LN2, [LN2 / 8, LN2 / 16, -3 * LN2 / 16]),
    "weights": (LN2, [LN2 / 6, LN2 / 12, -LN2 / 4]),
    "renormalised": (0.0, [0.0, 0.0, 0.0]),
    "bucket": (
        HAND_D,
        [0.5 * (LN2 - HAND_D), 0.25 * (LN2 - HAND_D), 0.25 * (math.log(0.4) - HAND_D)],
    ),
}


@EVERY_FORM
def test_value_and_gradient_match_the_numbers_worked_by_hand(form: str) -> None:
    value, gradient = score(
        form, row(0.5, 0.25, 0.25), row(0.25, 0.125, 0.625), torch.tensor([[0, 1]])
    )
    expected_value, expected_gradient = BY_HAND[form]
    assert value.item() == pytest.approx(expected_value, abs=1e-15)
    assert gradient[0].tolist() == pytest.approx(expected_gradient, abs=1e-15)


def test_a_truncated_value_may_be_negative_and_is_not_clamped() -> None:
    value, _ = score("plain", row(0.25, 0.75), row(0.5, 0.5), torch.tensor([[0]]))
    assert value.item() == pytest.approx(-0.25 * LN2, abs=1e-15)


# ------------------------------------------------------------------ against the oracle


@EVERY_FORM
@pytest.mark.parametrize("size", [2, 4, 9])
def test_value_and_gradient_match_the_naive_oracle(form: str, size: int) -> None:
    logits, log_q, ids = batch(1, size=size)
    value, gradient = score(form, logits, log_q, ids)
    for n in range(len(logits)):
        expected = FORMS[form][1](logits[n].tolist(), log_q[n].tolist(), ids[n].tolist())
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize("form", ["plain", "renormalised", "bucket"])
def test_the_autograd_forms_differentiate_their_own_value(form: str) -> None:
    logits, log_q, ids = batch(2, rows=3)
    _, gradient = score(form, logits, log_q, ids)
    step = 1e-5
    for v in range(logits.shape[1]):
        shift = torch.zeros_like(logits)
        shift[:, v] = step
        above, _ = score(form, logits + shift, log_q, ids)
        below, _ = score(form, logits - shift, log_q, ids)
        torch.testing.assert_close(
            gradient[:, v], (above - below) / (2 * step), atol=1e-9, rtol=0.0
        )


def test_the_bucket_is_a_divergence_between_0_and_the_full_one() -> None:
    logits, log_q, ids = batch(3, rows=200)
    value, _ = score("bucket", logits, log_q, ids)
    whole = kl(log_p=torch.log_softmax(logits, -1), log_q=log_q)
    assert (value >= 0).all()
    assert (value <= whole + 1e-12).all()


# ------------------------------------------------------------------ teacher = student


def test_at_teacher_equal_student_the_plain_form_still_moves_mass_off_the_support() -> None:
    logits, _, ids = batch(4)
    value, gradient = score("plain", logits, torch.log_softmax(logits, -1), ids)
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-14, rtol=0.0)
    for n in range(len(logits)):
        expected = oracle.mass_gradient(logits[n].tolist(), ids[n].tolist())
        assert max(map(abs, expected)) > 1e-3
        assert gradient[n].tolist() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("form", ["detached", "weights", "renormalised", "bucket"])
def test_at_teacher_equal_student_every_other_form_is_at_rest(form: str) -> None:
    logits, _, ids = batch(5)
    value, gradient = score(form, logits, torch.log_softmax(logits, -1), ids)
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-14, rtol=0.0)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-14, rtol=0.0)


# ------------------------------------------------------------------ reductions, invariances


@EVERY_FORM
def test_a_support_of_the_whole_vocabulary_is_the_full_reverse_kl(form: str) -> None:
    logits, log_q, _ = batch(6)
    everything = torch.arange(logits.shape[1]).expand_as(logits)
    value, gradient = score(form, logits, log_q, everything)
    for n in range(len(logits)):
        expected = oracle.full(logits[n].tolist(), log_q[n].tolist())
        assert value[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert gradient[n].tolist() == pytest.approx(expected[1], abs=1e-12)


@EVERY_FORM
def test_results_have_the_precision_of_the_log_probs(form: str) -> None:
    for dtype in (torch.float32, torch.float64):
        logits, log_q, ids = (x if x.dtype == torch.int64 else x.to(dtype) for x in batch(3))
        value, gradient = score(form, logits, log_q, ids)
        assert value.dtype == gradient.dtype == dtype


@EVERY_FORM
def test_a_whole_vocabulary_in_fp32_stays_finite_and_close(form: str) -> None:
    logits, log_q, _ = batch(7, rows=64, vocabulary=16)
    everything = torch.arange(16).expand_as(logits)
    truth = score(form, logits, log_q, everything)
    value, gradient = score(form, logits.float(), log_q.float(), everything)
    torch.testing.assert_close(value.double(), truth[0], atol=4e-6, rtol=0.0)
    torch.testing.assert_close(gradient.double(), truth[1], atol=4e-6, rtol=0.0)


@EVERY_FORM
def test_a_constant_added_to_the_logits_changes_nothing(form: str) -> None:
    logits, log_q, ids = batch(8)
    expected = score(form, logits, log_q, ids)
    actual = score(form, logits + 7.5, log_q, ids)
    torch.testing.assert_close(actual, expected, atol=1e-13, rtol=0.0)


@EVERY_FORM
def test_the_order_of_the_ids_changes_nothing(form: str) -> None:
    logits, log_q, ids = batch(9)
    expected = score(form, logits, log_q, ids)
    actual = score(form, logits, log_q, ids.flip(-1))
    torch.testing.assert_close(actual, expected, atol=1e-14, rtol=0.0)


@EVERY_FORM
def test_ids_masked_in_both_models_change_nothing_and_receive_no_gradient(form: str) -> None:
    logits, log_q, ids = batch(10, vocabulary=9)
    expected = score(form, logits, log_q, ids)
    dead = torch.full((len(logits), 2), -torch.inf, dtype=torch.float64)
    masked_ids = torch.tensor([[9, 10]]).expand(len(logits), 2)
    value, gradient = score(
        form,
        torch.cat([logits, dead], -1),
        torch.cat([log_q, dead], -1),
        torch.cat([ids, masked_ids], -1),
    )
    torch.testing.assert_close(value, expected[0], atol=1e-14, rtol=0.0)
    torch.testing.assert_close(gradient[:, :9], expected[1], atol=1e-14, rtol=0.0)
    assert (gradient[:, 9:] == 0).all()


@EVERY_FORM
def test_a_support_of_masked_ids_alone_scores_0_without_gradient(form: str) -> None:
    logits = torch.tensor([[0.3, -0.2, -torch.inf, -torch.inf]], dtype=torch.float64)
    log_q = torch.log_softmax(torch.tensor([[1.0, 2.0, -torch.inf, -torch.inf]]).double(), -1)
    value, gradient = score(form, logits, log_q, torch.tensor([[2, 3]]))
    assert value.item() == 0.0
    assert (gradient == 0).all()


@EVERY_FORM
def test_an_id_that_only_the_teacher_masks_makes_the_loss_infinite_and_no_gradient_nan(
    form: str,
) -> None:
    logits = torch.tensor([[0.3, -0.2, 0.9, 0.1]], dtype=torch.float64).requires_grad_()
    log_q = row(0.2, 0.3, 0.0, 0.5)
    ids = torch.tensor([[0, 1, 2]])
    log_p = support.log_softmax_at(logits=logits, ids=ids)
    scored = FORMS[form][0](log_p=log_p, log_q=log_q.gather(-1, ids))
    assert scored.value.item() == math.inf
    assert scored.surrogate.item() == math.inf
    (gradient,) = torch.autograd.grad(scored.surrogate.sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[0, :2].abs().min() > 1e-3, "the other ids keep their pull"


@EVERY_FORM
def test_disjoint_supports_give_an_infinite_value_and_no_nan(form: str) -> None:
    inf = torch.inf
    logits = torch.tensor([[0.5, 0.1, -inf, -inf]], dtype=torch.float64)
    value, gradient = score(form, logits, row(0.0, 0.0, 0.25, 0.75), torch.arange(4)[None])
    assert value.item() == math.inf
    assert gradient.isfinite().all()
    assert (gradient[0, 2:] == 0).all()


# ------------------------------------------------------------------ precision


@pytest.mark.parametrize("outside", [1e-4, 1e-8, 1e-12])
def test_the_bucket_keeps_its_digits_when_nearly_all_mass_is_on_the_support(
    outside: float,
) -> None:
    log_p = torch.tensor([[math.log1p(-outside)]], dtype=torch.float64)
    log_q = torch.tensor([[math.log1p(-4 * outside)]], dtype=torch.float64)
    value = support.reverse_kl_bucket(log_p=log_p, log_q=log_q).value.item()
    on_support = (1 - outside) * (math.log1p(-outside) - math.log1p(-4 * outside))
    assert value == pytest.approx(on_support + outside * math.log(0.25), rel=1e-9, abs=0.0)


def test_the_bucket_in_fp32_adds_no_error_to_that_of_the_plain_form() -> None:
    logits, log_q, ids = batch(13, rows=512, vocabulary=64, size=16)
    logits = logits.scatter_add(-1, ids, torch.full_like(ids, 9.0, dtype=logits.dtype))
    log_q = torch.log_softmax(
        log_q.scatter_add(-1, ids, torch.full_like(ids, 4.0, dtype=log_q.dtype)), -1
    )
    at = {"log_p": torch.log_softmax(logits, -1), "log_q": log_q}
    wide = {name: logp.gather(-1, ids).float().double() for name, logp in at.items()}
    assert 1e-6 < (1 - support.mass(logp=wide["log_p"])).median() < 1e-4

    def error(form: Callable[..., Scored]) -> float:
        narrow = form(**{name: logp.float() for name, logp in wide.items()}).value
        return (narrow.double() - form(**wide).value).abs().max().item()

    assert error(support.reverse_kl_bucket) <= error(support.reverse_kl_plain) + 5e-8


def test_the_bucket_in_fp32_survives_a_mass_that_rounds_past_1() -> None:
    log_p = torch.tensor([[-1e-9, -21.0], [2e-7, -30.0], [-1e-3, -6.9]], requires_grad=True)
    log_q = torch.tensor([[-3e-7, -15.0], [1e-7, -40.0], [1e-7, -20.0]])
    scored = support.reverse_kl_bucket(log_p=log_p, log_q=log_q)
    (gradient,) = torch.autograd.grad(scored.surrogate.sum(), log_p)
    assert scored.value.isfinite().all()
    assert gradient.isfinite().all()
    assert scored.value[:2].abs().max() < 2e-6


@EVERY_FORM
def test_logits_that_come_from_bf16_lose_no_more_than_the_naive_bf16_form(form: str) -> None:
    logits, log_q, ids = batch(11, rows=256, vocabulary=64, size=16)
    teacher = log_q.bfloat16()
    truth_value, truth_gradient = score(form, logits, torch.log_softmax(log_q, -1), ids)
    value, gradient = score(
        form, logits.bfloat16().float(), torch.log_softmax(teacher.float(), -1), ids
    )
    naive_value, naive_gradient = score(
        form, logits.bfloat16(), torch.log_softmax(teacher, -1), ids
    )

    def error(actual: Tensor, truth: Tensor) -> float:
        return (actual.double() - truth).abs().mean().item()

    assert error(value, truth_value) <= error(naive_value, truth_value) + 1e-6
    assert error(gradient, truth_gradient) <= error(naive_gradient, truth_gradient) + 1e-6
