"""Which forms of the reverse KL may be configured, and the sentence that refuses each other one.

Only forms whose gradient is a reverse KL's are legal; a realisation is a choice only where more
than one of them is.
"""

from __future__ import annotations

from typing import Literal

from tandem.objectives.sampled import refuse_limit

Support = Literal["full", "student_topk", "teacher_topk", "sampled"]
Tail = Literal["none", "renormalise_weights", "renormalise", "bucket"]
Realisation = Literal["autograd", "detached", "policy_gradient", "k2"]

DEFAULT_TOP_K = 16
DEFAULT_TAIL = {"full": "none", "topk": "renormalise_weights", "sampled": "none"}

# (family of supports, tail) -> realisations with the right gradient; the first is filled in.
REALISATIONS: dict[tuple[str, str | None], tuple[Realisation, ...]] = {
    ("full", "none"): ("autograd",),
    # Both are gradients of a truncated sum; autograd's extra ∇m has to be asked for.
    ("topk", "none"): ("detached", "autograd"),
    ("topk", "renormalise_weights"): ("detached",),
    ("topk", "renormalise"): ("autograd",),
    ("topk", "bucket"): ("autograd",),
    # The same gradient token for token; they differ in the number that is minimised.
    ("sampled", "none"): ("policy_gradient", "k2"),
}

_NO_TAIL = {
    ("full", "renormalise_weights"): "support full leaves no tail",
    ("full", "renormalise"): "support full leaves no tail",
    ("full", "bucket"): "support full leaves no tail",
    ("sampled", "renormalise_weights"): "the weight of a single sampled token is 1 already",
    ("sampled", "renormalise"): (
        "a loss renormalised for both models on a single sampled token is identically 0"
    ),
    ("sampled", "bucket"): (
        "a bucket around a single sampled token is the divergence of another partition at every "
        "draw and no estimate of the reverse KL"
    ),
}

_PREFIX_ADVANTAGE = (
    "a KL summed over the prefix's tokens, used as the advantage of one of them, has expected "
    "gradient 0 and so no signal: use support sampled"
)
_SINGLE_TOKEN_FORM = (
    "K2 estimates the sum from a single sampled token, and this support takes the sum itself: "
    "use support sampled"
)
_WRONG_REALISATION = {
    ("full", "none", "detached"): (
        "on the full vocabulary it has the gradient of autograd at a higher price: use autograd"
    ),
    ("topk", "renormalise_weights", "autograd"): (
        "differentiating p/m adds a drift along the support's mass m that the true gradient lacks:"
        " use detached, or tail renormalise"
    ),
    ("topk", "renormalise", "detached"): (
        "both models are renormalised, so autograd is exact and without drift: use autograd"
    ),
    ("topk", "bucket", "detached"): (
        "the bucket closes the partition, so autograd is exact and without drift: use autograd"
    ),
    ("sampled", "none", "autograd"): (
        "autograd of log p(y) − log q(y) has expected gradient 0 and so no signal: use "
        "policy_gradient or k2"
    ),
    ("sampled", "none", "detached"): (
        "a drawn token already comes in proportion to p, and weighing it by p again is wrong: use "
        "policy_gradient"
    ),
}


def family(support: str) -> str:
    """full, topk or sampled."""
    return "topk" if support in ("student_topk", "teacher_topk") else support


def refusal(
    *,
    support: str,
    top_k: int | None,
    tail: str | None,
    realisation: str | None,
    importance: str,
    importance_limit: float | None,
    baseline: str,
) -> str | None:
    """Why this form may not be trained with, in one sentence with the fix; None if it may."""
    kind = family(support)
    return (
        _refuse_top_k(support, top_k, tail)
        or _refuse_tail(kind, tail)
        or _refuse_realisation(support, tail, realisation)
        or _refuse_sampled_fields(support, realisation, importance, importance_limit, baseline)
    )


def _refuse_top_k(support: str, top_k: int | None, tail: str | None) -> str | None:
    if family(support) != "topk":
        if top_k is None:
            return None
        return (
            f"top_k is {top_k}, but support {support} has no k: remove top_k, or use support "
            "student_topk or teacher_topk."
        )
    if top_k is None or top_k < 1:
        return f"top_k is {top_k}, but a support holds at least 1 token: give 1 or more, say 16."
    if top_k == 1 and tail == "renormalise":
        return (
            "tail renormalise is refused with top_k 1: a loss renormalised for both models on a "
            "single token is identically 0: give top_k 2 or more, or use tail bucket."
        )
    return None


def _refuse_tail(kind: str, tail: str | None) -> str | None:
    if (kind, tail) in REALISATIONS:
        return None
    reason = _NO_TAIL[kind, str(tail)]
    return f"tail {tail} is refused with support {kind}: {reason}: use tail none."


def _refuse_realisation(support: str, tail: str | None, realisation: str | None) -> str | None:
    kind = family(support)
    if realisation in REALISATIONS[kind, tail]:
        return None
    if realisation == "policy_gradient":
        reason = _PREFIX_ADVANTAGE
    elif realisation == "k2":
        reason = _SINGLE_TOKEN_FORM
    else:
        reason = _WRONG_REALISATION[kind, str(tail), str(realisation)]
    return f"realisation {realisation} is refused with support {support}, tail {tail}: {reason}."


def _refuse_sampled_fields(
    support: str, realisation: str | None, importance: str, limit: float | None, baseline: str
) -> str | None:
    if importance != "none" and support != "sampled":
        return (
            f"importance {importance} is refused with support {support}: that loss never reads "
            "the sampled token, so a weight p/mu would bias it: use importance none."
        )
    if baseline != "none" and support != "sampled":
        return (
            f"baseline {baseline} is refused with support {support}: that loss sums over tokens "
            "and has no sampling variance to take off: use baseline none."
        )
    if baseline != "none" and realisation == "k2":
        return (
            f"baseline {baseline} is refused with realisation k2, which has no reward to take it "
            "from: use realisation policy_gradient."
        )
    return refuse_limit(importance, limit)
