"""IFEval: 541 prompts with instructions that a program can check (arXiv 2311.07911)."""

from __future__ import annotations

from typing import ClassVar, Literal

from tandem.evaluation.suites.instruction_following import InstructionSuite


class IFEval(InstructionSuite):
    """Graded strictly, as published; 25 kinds of instruction.

    checks: any package with Google's registry; `lm_eval.tasks.ifeval.instructions_registry` of
    lm-evaluation-harness and `ifbench.instructions_registry` of Ai2 hold the same checks.
    """

    hub = "google/IFEval@train"
    folder = "ifeval"
    data: ClassVar[tuple[str, ...]] = ("tokenizers/punkt_tab/english/",)
    install: ClassVar[str] = "pip install 'tandem-opd[eval]'"

    kind: Literal["ifeval"] = "ifeval"
    checks: str = "if_verifiable.ifeval.instructions_registry"
