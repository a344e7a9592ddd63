"""IFBench: 300 prompts with 58 kinds of instruction unlike IFEval's (arXiv 2507.02833)."""

from __future__ import annotations

from typing import ClassVar, Literal

from tandem.evaluation.suites.instruction_following import InstructionSuite


class IFBench(InstructionSuite):
    """Graded loosely, as the paper reports it, by the authors' own package.

    checks: `if_verifiable.ifbench.instructions_registry`, which `tandem-opd[eval]` installs, holds
    an earlier state: a dozen of its checks differ from the authors' of 2026 (words inside words,
    pronouns, positions, where sentences end), so its numbers are not to be compared with theirs.
    """

    hub = "allenai/IFBench_test@train"
    folder = "ifbench"
    data: ClassVar[tuple[str, ...]] = (
        "tokenizers/punkt_tab/english/",
        "corpora/stopwords",
        "taggers/averaged_perceptron_tagger_eng/",
    )
    install: ClassVar[str] = (
        "pip install git+https://github.com/allenai/IFBench, the authors' checks; or set checks to "
        "if_verifiable.ifbench.instructions_registry, an earlier state of them that pip install "
        "'tandem-opd[eval]' brings"
    )

    kind: Literal["ifbench"] = "ifbench"
    checks: str = "ifbench.instructions_registry"
    reading: Literal["strict", "loose"] = "loose"

    def source(self) -> str:
        """The authors' own file in `data_root`, under its own name."""
        if self.data_root is None:
            return self.hub
        return str(self.data_root / self.folder / "IFBench_test.jsonl")
