"""One or more ready configurations of every kind, for the contract tests and the generated table.

Fields without a default need some value here; none of these is a recommendation.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from tandem.behaviours import AnyBehaviour
from tandem.behaviours.base import Behaviour
from tandem.objectives import AnyObjective
from tandem.objectives.base import Objective

Fields = dict[str, Any]

# The small worlds of the contract have 7 ids; supports stay below that.
_BEHAVIOURS: dict[str, Fields] = {
    "student": {},
    "temperature_warmup": {"start_temperature": 0.8, "warmup_steps": 10},
    "trust_region_blend": {"budget": 0.05, "warmup_steps": 10},
    "fixed_budget_blend": {"budget": 0.05},
    "fixed_exponent_blend": {"exponent": 0.5},
    "speculative_kd": {"top_k": 3, "teacher_temperature": 0.6},
    "arithmetic_mixture": {"weight": 0.2},
    "teacher_prefix": {},
    "off_policy_mix": {},
    "teacher": {},
}

_EXACT: Fields = {"importance": "exact"}
_BASELINE: Fields = {"baseline": "expected"}
_OBJECTIVES: dict[str, list[Fields]] = {
    "reverse_kl": [
        {"top_k": 3},
        {"support": "teacher_topk", "top_k": 3},
        {"support": "full"},
        {"support": "sampled"},
        {"support": "sampled"} | _BASELINE,
        {"support": "sampled", "importance": "truncated", "importance_limit": 1.5},
        {"support": "sampled", "importance": "clipped", "importance_limit": 0.2},
    ],
    "trust_region": [
        {"top_k": 3},
        {"top_k": 3, "gate": "expected"},
        {"top_k": 3, "gate": "expected", "positive_branch": "add"},
        {"outlier": "mask", "gate": "none"},
        {"outlier": "clip", "gate": "none"},
        {"outlier": "mask", "gate": "sampled"},
        {"outlier": "clip", "gate": "expected"},
        {"top_k": 3, "gate": "expected", "support": "full"},
        {"top_k": 3, "gate": "expected", "support": "student_topk", "support_top_k": 3},
    ],
    "forward_kl": [{"support": "full"}, {"support": "teacher_topk", "top_k": 3}],
    "generalized_jsd": [
        {},
        {"beta": 0.1},
        {"beta": 0.5, "ends": "scaled"},
        {"support": "student_topk", "top_k": 3},
        {"support": "teacher_topk", "top_k": 3},
    ],
    "skew_kl": [
        {"direction": "forward"},
        {"direction": "reverse"},
        {"direction": "forward", "support": "teacher_topk", "top_k": 3},
        {"direction": "reverse", "support": "teacher_topk", "top_k": 3},
    ],
    "entropy_aware": [{"top_k": 3, "teacher_top_k": 3, "threshold": 0.8}],
    "entropy_selected": [{}, {"support": "full", "fraction": 0.5}],
    "relaxed": [{"stages": "one"}, {"stages": "one", "support": "full"}, {"stages": "two"}],
    "asymmetric": [{"top_k": 3}],
    "veto": [{"start_beta": 0.4}, {"start_beta": 0.4, "support": "sampled"}],
    "extrapolated": [{}],
    "proximal": [{"alpha": 0.5}, {"alpha": 0.5, "support": "full"}],
    "drift_gate": [
        {"tau": 1.0, "objective": {"kind": "reverse_kl", "support": "sampled"}},
        {"tau": 1.0, "objective": {"kind": "reverse_kl", "support": "sampled"} | _EXACT},
        {"tau": 1.0, "objective": {"kind": "reverse_kl", "top_k": 3}},
    ],
    "supervised": [{}],
    "constant_advantage": [{}],
}


@cache
def behaviours() -> tuple[Behaviour, ...]:
    """One configuration per kind."""
    adapter: TypeAdapter[Behaviour] = TypeAdapter(AnyBehaviour)
    return tuple(
        adapter.validate_python({"kind": kind} | fields) for kind, fields in _BEHAVIOURS.items()
    )


@cache
def objectives() -> tuple[Objective, ...]:
    """Every kind in its main forms; those that read the drawn token also with an exact weight."""
    adapter: TypeAdapter[Objective] = TypeAdapter(AnyObjective)
    found: list[Objective] = []
    for kind, forms in _OBJECTIVES.items():
        for fields in forms:
            objective = adapter.validate_python({"kind": kind} | _nested(fields))
            found.append(objective)
            if objective.reads_sampled() and "importance" in type(objective).model_fields:
                plain = fields.get("importance") is None
                if plain:
                    weighted = {"kind": kind} | _nested(fields) | _EXACT
                    found.append(adapter.validate_python(weighted))
    return tuple(found)


def _nested(fields: Fields) -> Fields:
    """Fields with an objective inside made into one, as a recipe's reader does."""
    if "objective" not in fields:
        return fields
    adapter: TypeAdapter[Objective] = TypeAdapter(AnyObjective)
    return fields | {"objective": adapter.validate_python(fields["objective"])}


def label(method: Behaviour | Objective) -> str:
    """A short name that tells two configurations of one kind apart."""
    given = method.model_dump(mode="json", exclude_unset=True, exclude={"kind"})
    # An objective inside is told by its kind, which one made in Python does not set.
    fields: dict[str, Any] = dict(method)
    given |= {name: fields[name].kind for name in given if isinstance(fields[name], Objective)}
    inner = ",".join(f"{name}={value}" for name, value in given.items())
    return f"{method.kind}({inner})" if inner else str(method.kind)
