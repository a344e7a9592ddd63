"""American competitions: AIME of two years, and the two sets that papers call AMC23."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tandem.evaluation.suites.mathematics import MathSuite


class AIME24(MathSuite):
    """AIME 2024 I and II: 30 problems, answers from 0 to 999; 512 samples each."""

    hub = "HuggingFaceH4/aime_2024@train"
    folder = "aime24"

    kind: Literal["aime24"] = "aime24"
    samples: int = Field(default=512, gt=0)


class AIME25(MathSuite):
    """AIME 2025 I and II: 30 problems, answers from 0 to 999; 512 samples each."""

    hub = "math-ai/aime25@test"
    folder = "aime25"

    kind: Literal["aime25"] = "aime25"
    samples: int = Field(default=512, gt=0)


class AMC23(MathSuite):
    """AMC 12 2023 (A and B), the 40 problems of most papers; 512 samples each."""

    hub = "math-ai/amc23@test"
    folder = "amc23"

    kind: Literal["amc23"] = "amc23"
    samples: int = Field(default=512, gt=0)


class AMCAimo83(MathSuite):
    """AMC 12 2022 and 2023, the 83 problems of AIMO's validation set; 512 samples each.

    Another set than `amc23`, and often called so too: their scores do not compare.
    """

    hub = "AI-MO/aimo-validation-amc@train"
    folder = "amc_aimo83"

    kind: Literal["amc_aimo83"] = "amc_aimo83"
    samples: int = Field(default=512, gt=0)
