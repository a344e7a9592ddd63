"""What the suites of code have in common: an answer becomes a program, and the sandbox judges."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence

from pydantic import Field

from tandem.evaluation.sandbox.forms import Limits, Outcome, Program
from tandem.evaluation.sandbox.sandbox import Sandbox
from tandem.evaluation.suites.base import Suite
from tandem.tasks.base import Grade, Prompt


class CodeSuite(Suite):
    """Answers are programs, run in a sandbox.

    seconds: of the clock that one run of a program may take. memory_mib: what it may use. workers:
    programs at a time. allow_unisolated: run them, with limits alone, where the kernel isolates
    nothing. `Grade.answer` is a hash of the program, so equal programs count as one vote.
    """

    seconds: float = Field(default=10.0, gt=0.0)
    memory_mib: int = Field(default=1024, ge=128)
    workers: int = Field(default=2, ge=1)
    allow_unisolated: bool = False

    @abstractmethod
    def source_of(self, prompt: Prompt, completion: str) -> str:
        """The program in an answer; empty where there is none."""

    @abstractmethod
    def program_of(self, prompt: Prompt, source: str) -> Program:
        """The program with the checks that it has to pass."""

    @property
    def sandbox(self) -> Sandbox:
        limits = Limits(
            seconds=self.seconds, cpu_seconds=int(self.seconds) + 1, memory_mib=self.memory_mib
        )
        return Sandbox(limits, workers=self.workers, allow_unisolated=self.allow_unisolated)

    def ready(self) -> None:
        """Raises ValueError where programs cannot be isolated and `allow_unisolated` is not set: to
        be asked before anything is generated."""
        self.sandbox.isolated()

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        return self.grade_many([(prompt, completion)])[0]

    def grade_many(self, items: Sequence[tuple[Prompt, str]]) -> list[Grade]:
        """Raises ValueError as `ready`."""
        sources = [self.source_of(prompt, completion) for prompt, completion in items]
        programs = [
            self.program_of(prompt, source)
            for (prompt, _), source in zip(items, sources, strict=True)
            if source
        ]
        outcomes = iter(self.sandbox.run_many(programs))
        return [_grade(source, next(outcomes) if source else None) for source in sources]


def fingerprint(source: str) -> str:
    """What equal programs share."""
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _grade(source: str, outcome: Outcome | None) -> Grade:
    if outcome is None:
        return Grade(correct=False, answered=False, reason="no answer")
    return Grade(outcome.passed, answered=True, reason=outcome.reason, answer=fingerprint(source))
