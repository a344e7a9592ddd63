"""How good a model is: pass@1 with intervals over problems."""

from __future__ import annotations

from tandem.evaluation.evaluate import Completion, EvaluationResult, evaluate
from tandem.evaluation.intervals import Interval, mean_interval, paired_difference, wilson

__all__ = [
    "Completion",
    "EvaluationResult",
    "Interval",
    "evaluate",
    "mean_interval",
    "paired_difference",
    "wilson",
]
