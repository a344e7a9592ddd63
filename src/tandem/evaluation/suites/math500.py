"""MATH-500: 500 competition problems held out of MATH (Lightman et al., arXiv 2305.20050)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tandem.evaluation.suites.mathematics import MathSuite
from tandem.tasks.columns import Row


class Math500(MathSuite):
    """500 problems of MATH; 64 samples each."""

    hub = "HuggingFaceH4/MATH-500@test"
    folder = "math500"

    kind: Literal["math500"] = "math500"
    samples: int = Field(default=64, gt=0)

    def id_of(self, row: Row, number: int) -> str:
        return str(row["unique_id"]) if "unique_id" in row else super().id_of(row, number)
