"""Which fields of a trust region go together, their defaults, and why the rest is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from tandem.objectives.sampled import refuse_limit

Gate = Literal["sampled", "expected", "none"]
Outlier = Literal["forward_kl", "mask", "clip"]
Support = Literal["sampled", "student_topk", "full"]

DEFAULT_TOP_K = 64
DEFAULT_FLOOR = math.log(0.2 / 0.8)
DEFAULT_SUPPORT_TOP_K = 16
DEFAULT_GUIDANCE = 0.001


def has_floor(gate: str, outlier: str) -> bool:
    """Whether the floor plays a part: a gate that masks outliers drops them whatever they are."""
    return outlier == "clip" or (outlier == "mask" and gate == "none")


def fill_in(given: dict[str, Any]) -> None:
    """Write the defaults of the fields that this gate, outlier rule and support read."""
    gate, outlier = str(given.get("gate", "sampled")), str(given.get("outlier", "forward_kl"))
    if outlier == "forward_kl":
        given.setdefault("top_k", DEFAULT_TOP_K)
    if has_floor(gate, outlier):
        given.setdefault("floor", DEFAULT_FLOOR)
    if given.get("support") == "student_topk":
        given.setdefault("support_top_k", DEFAULT_SUPPORT_TOP_K)


def refusal(fields: dict[str, Any]) -> str | None:
    """Why these fields of a TrustRegion do not go together, in one sentence; None if they do."""
    for rule in _RULES:
        reason = rule(fields)
        if reason is not None:
            return reason
    return refuse_limit(fields["importance"], fields["importance_limit"])


def _refuse_no_gate(fields: dict[str, Any]) -> str | None:
    if fields["gate"] != "none" or fields["outlier"] != "forward_kl":
        return None
    return (
        "outlier forward_kl is refused with gate none: without a gate no token is an outlier: use "
        "outlier mask or clip, or gate sampled or expected, or objective reverse_kl."
    )


def _refuse_top_k(fields: dict[str, Any]) -> str | None:
    top_k, outlier = fields["top_k"], fields["outlier"]
    if outlier != "forward_kl":
        if top_k is None:
            return None
        return (
            f"top_k is {top_k}, but outlier {outlier} sums no forward KL: remove top_k, or use "
            "outlier forward_kl."
        )
    if top_k < 1:
        return f"top_k is {top_k}, but a forward KL sums at least 1 token: give 1 or more, say 64."
    return None


def _refuse_floor(fields: dict[str, Any]) -> str | None:
    floor, gate, outlier = fields["floor"], fields["gate"], fields["outlier"]
    if floor is None:
        return None
    if not has_floor(gate, outlier):
        return (
            f"floor is {floor}, but gate {gate} with outlier {outlier} has none: remove floor, or "
            "use outlier clip."
        )
    if floor >= 0.0:
        return (
            f"floor is {floor}, but it bounds the log-ratio log q − log p from below and would "
            "leave out tokens that both models agree on: give a number below 0, say -1.386."
        )
    return None


def _refuse_guidance(fields: dict[str, Any]) -> str | None:
    weight = fields["guidance_weight"]
    if weight is None or weight >= 0.0:
        return None
    return (
        f"guidance_weight is {weight}, which would push the student away from the teacher's text: "
        "give 0 or more (0.001 in the paper)."
    )


def _refuse_support(fields: dict[str, Any]) -> str | None:
    support, gate, support_top_k = fields["support"], fields["gate"], fields["support_top_k"]
    if support != "sampled" and gate != "expected":
        return (
            f"support {support} is refused with gate {gate}: a sum over tokens weighs each by its "
            "chance to pass the gate: use gate expected, or support sampled."
        )
    if support != "student_topk":
        if support_top_k is None:
            return None
        return (
            f"support_top_k is {support_top_k}, but support {support} has no k: remove "
            "support_top_k, or use support student_topk."
        )
    if support_top_k < 1:
        return (
            f"support_top_k is {support_top_k}, but a support holds at least 1 token: give 1 or "
            "more, say 16."
        )
    return None


def _refuse_sampled_fields(fields: dict[str, Any]) -> str | None:
    support, importance, baseline = fields["support"], fields["importance"], fields["baseline"]
    if support == "sampled":
        return None
    if importance != "none":
        return (
            f"importance {importance} is refused with support {support}: that loss never reads "
            "the sampled token, so a weight p/mu would bias it: use importance none."
        )
    if baseline != "none":
        return (
            f"baseline {baseline} is refused with support {support}: that loss sums over tokens "
            "and has no sampling variance to take off: use baseline none."
        )
    return None


_RULES: tuple[Callable[[dict[str, Any]], str | None], ...] = (
    _refuse_no_gate,
    _refuse_top_k,
    _refuse_floor,
    _refuse_guidance,
    _refuse_support,
    _refuse_sampled_fields,
)
