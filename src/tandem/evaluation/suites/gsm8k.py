"""GSM8K: the test split of grade-school word problems (Cobbe et al., arXiv 2110.14168)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tandem.evaluation.suites.mathematics import MathSuite


class GSM8K(MathSuite):
    """1,319 word problems whose answers are whole numbers; 32 samples each."""

    hub = "openai/gsm8k#main@test"
    folder = "gsm8k_test"

    kind: Literal["gsm8k"] = "gsm8k"
    samples: int = Field(default=32, gt=0)
