"""What IFEval and IFBench have in common: prompts with instructions, checked one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar, Literal

from tandem.evaluation.instructions import (
    Accuracies,
    Followed,
    Registry,
    Wanted,
    accuracies,
    followed,
    registry,
)
from tandem.evaluation.sandbox.extract import without_thoughts
from tandem.evaluation.suites.base import Suite, asked
from tandem.tasks.base import Grade, Prompt
from tandem.tasks.columns import Row


class InstructionSuite(Suite):
    """Right when every instruction of the prompt is followed.

    checks: the module of the package that checks. reading: "strict" grades the answer as it
    stands, "loose" as the papers define it; `accuracies` gives both, of prompts and of
    instructions. `Grade.reason` names the instructions that were not followed.
    """

    # What the checks read of nltk's data, and how to get them.
    data: ClassVar[tuple[str, ...]]
    install: ClassVar[str]

    checks: str
    reading: Literal["strict", "loose"] = "strict"

    @property
    def registry(self) -> Registry:
        """Raises ValueError that says what to install."""
        return registry(self.checks, data=self.data, install=self.install)

    def ready(self) -> None:
        """Raises ValueError that says what to install: to be asked before anything is generated."""
        assert self.registry

    def problem_of(self, row: Row, number: int) -> Prompt:
        text = str(row["problem"] if "problem" in row else row["prompt"])
        needed = {
            "prompt": text,
            "names": list(row["instruction_id_list"]),
            # The published tables have a column for every argument of any instruction.
            "arguments": [
                {name: value for name, value in given.items() if value is not None}
                for given in row["kwargs"]
            ],
        }
        identity = str(row["key"]) if "key" in row else self.id_of(row, number)
        return Prompt(id=identity, messages=asked(text), answer=json.dumps(needed))

    def followed(self, prompt: Prompt, completion: str) -> Followed:
        """For each instruction whether the answer, without thoughts aloud, follows it."""
        answer = without_thoughts(completion).strip()
        return followed(self.registry, wanted(prompt), answer)

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        found = self.followed(prompt, completion)
        marks = found.strict if self.reading == "strict" else found.loose
        missed = [name for name, mark in zip(wanted(prompt).names, marks, strict=True) if not mark]
        reason = f"not followed: {', '.join(missed)}" if missed else ""
        if found.broken:
            reason += f"; could not be checked: {', '.join(found.broken)}"
        answered = bool(without_thoughts(completion).strip())
        return Grade(all(marks), answered, reason if answered else "no answer")

    def accuracies(self, items: Sequence[tuple[Prompt, str]]) -> Accuracies:
        """The four published numbers of these answers."""
        return accuracies([self.followed(prompt, completion) for prompt, completion in items])


def wanted(prompt: Prompt) -> Wanted:
    """The instructions that the suite kept with the prompt."""
    needed = json.loads(prompt.answer)
    return Wanted(needed["prompt"], tuple(needed["names"]), tuple(needed["arguments"]))
