"""MMLU's sciences (Hendrycks et al., arXiv 2009.03300) and MMLU-Redux 2.0 (arXiv 2406.04127)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from tandem.evaluation.suites.multiple_choice import LETTERS, ChoiceSuite, choice_prompt
from tandem.tasks.base import Prompt
from tandem.tasks.columns import Row, read_rows

# The hub's set has anatomy as a nineteenth subject; the evaluations that papers share have not.
LEFT_OUT = "anatomy"
SUBJECTS = (  # the configurations of MMLU-Redux
    "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology "
    "college_chemistry college_computer_science college_mathematics college_medicine "
    "college_physics computer_security conceptual_physics econometrics electrical_engineering "
    "elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry "
    "high_school_computer_science high_school_european_history high_school_geography "
    "high_school_government_and_politics high_school_macroeconomics high_school_mathematics "
    "high_school_microeconomics high_school_physics high_school_psychology "
    "high_school_statistics high_school_us_history high_school_world_history human_aging "
    "human_sexuality international_law jurisprudence logical_fallacies machine_learning "
    "management marketing medical_genetics miscellaneous moral_disputes moral_scenarios nutrition "
    "philosophy prehistory professional_accounting professional_law professional_medicine "
    "professional_psychology public_relations security_studies sociology us_foreign_policy "
    "virology world_religions"
)


class _MMLU(ChoiceSuite):
    """Questions with four choices; their order is the source's."""

    def problem_of(self, row: Row, number: int) -> Prompt:
        question = str(row["problem"] if "problem" in row else row["question"])
        choices = [str(choice) for choice in row["choices"]]
        return choice_prompt(self.id_of(row, number), question, choices, _place(row["answer"]))


class MMLUStem(_MMLU):
    """3,018 questions of MMLU's test split in 18 sciences; 4 samples each."""

    hub = "TIGER-Lab/MMLU-STEM@test"
    folder = "mmlu_stem"

    kind: Literal["mmlu_stem"] = "mmlu_stem"
    samples: int = Field(default=4, gt=0)

    def rows(self) -> Sequence[Row]:
        return [row for row in super().rows() if row.get("subject") != LEFT_OUT]


class MMLURedux(_MMLU):
    """MMLU-Redux 2.0: 57 subjects of 100 questions looked through by hand; 4 samples each.

    Only questions that were found without a fault count (error_type `ok`): of the others the
    right answer is in doubt. A local folder holds rows of the same columns.
    """

    hub = "edinburgh-dawg/mmlu-redux-2.0"
    folder = "mmlu_redux"

    kind: Literal["mmlu_redux"] = "mmlu_redux"
    samples: int = Field(default=4, gt=0)

    def rows(self) -> Sequence[Row]:
        if self.data_root is not None:
            found = list(super().rows())
        else:
            # One configuration of the data set per subject.
            found = [
                {**row, "id": f"{subject}-{n}"}
                for subject in SUBJECTS.split()
                for n, row in enumerate(read_rows(f"{self.hub}#{subject}@test"))
            ]
        return [row for row in found if row["error_type"] == "ok"]


def _place(answer: Any) -> int:
    """A choice's place, counted from 0, from its letter or its number."""
    return LETTERS.index(answer) if isinstance(answer, str) and answer in LETTERS else int(answer)
