"""What is left of a law on a support, by hand and against the reverse KLs that treat it alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from tandem.core.divergences import kl
from tandem.core.events import Tail, events
from tandem.core.support import (
    Scored,
    reverse_kl_bucket,
    reverse_kl_plain,
    reverse_kl_renormalised,
)


def test_the_events_of_three_ids_seen_through_two_match_the_numbers_worked_by_hand() -> None:
    logp = torch.tensor([[0.5, 0.25]], dtype=torch.float64).log()
    assert events(logp=logp, tail="none") is logp
    conditioned = events(logp=logp, tail="renormalise").exp()
    assert conditioned[0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-15)
    bucketed = events(logp=logp, tail="bucket").exp()
    assert bucketed[0].tolist() == pytest.approx([0.5, 0.25, 0.25], abs=1e-15)


@pytest.mark.parametrize(
    "tail, reverse",
    [
        ("none", reverse_kl_plain),
        ("renormalise", reverse_kl_renormalised),
        ("bucket", reverse_kl_bucket),
    ],
)
def test_the_kl_of_the_events_is_the_truncated_kl_of_the_same_name(
    tail: Tail, reverse: Callable[..., Scored]
) -> None:
    generator = torch.Generator().manual_seed(1)
    z, a = torch.randn(2, 6, 9, generator=generator, dtype=torch.float64)
    leaf = z.clone().requires_grad_()
    log_p, log_q = torch.log_softmax(leaf, -1)[:, :4], torch.log_softmax(a, -1)[:, :4]
    ours = kl(log_p=events(logp=log_p, tail=tail), log_q=events(logp=log_q, tail=tail))
    theirs = reverse(log_p=log_p, log_q=log_q).surrogate
    torch.testing.assert_close(ours, theirs)
    (mine,) = torch.autograd.grad(ours.sum(), leaf, retain_graph=True)
    torch.testing.assert_close(mine, torch.autograd.grad(theirs.sum(), leaf)[0])


def test_masked_ids_and_an_empty_support_stay_finite_in_value_and_gradient() -> None:
    logp = torch.tensor([[0.5, 0.0], [0.0, 0.0]], dtype=torch.float64).log()
    half, log_half = math.log(0.5), [0.0, -math.inf]
    assert events(logp=logp, tail="renormalise")[0].tolist() == log_half
    bucket = events(logp=logp, tail="bucket")
    assert bucket[0].tolist() == pytest.approx([half, -math.inf, half])
    assert bucket[1].tolist() == [-math.inf, -math.inf, 0.0]
    for tail in ("none", "renormalise", "bucket"):
        leaf = logp.clone().requires_grad_()
        seen = events(logp=leaf, tail=tail)
        (gradient,) = torch.autograd.grad(seen.exp().sum(), leaf)
        assert gradient.isfinite().all()


def test_a_support_of_all_the_mass_leaves_the_bucket_the_machines_epsilon() -> None:
    logp = torch.tensor([[0.5, 0.5]]).log()
    last = events(logp=logp, tail="bucket")[0, -1].item()
    assert last == pytest.approx(math.log(torch.finfo(torch.float32).eps))
