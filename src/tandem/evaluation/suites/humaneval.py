"""HumanEval: 164 functions, completed from signature and docstring (arXiv 2107.03374)."""

from __future__ import annotations

import json
from typing import Literal

from tandem.evaluation.sandbox.extract import cut, defines, last_block, without_thoughts
from tandem.evaluation.sandbox.forms import Checks, Program
from tandem.evaluation.suites.base import asked
from tandem.evaluation.suites.code import CodeSuite
from tandem.tasks.base import Prompt
from tandem.tasks.columns import Row

# Where a continuation has left the function: the paper's stop sequences (§ 2).
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_ASKED = (
    "Complete the Python function below. Answer with the whole function, in one block that starts "
    "with ```python and ends with ```.\n\n```python\n{problem}```"
)


class HumanEval(CodeSuite):
    """Right when the published `check` passes on the function.

    form: "completion" asks with the function's beginning alone, as published; "chat" asks for the
    whole function in words. Either kind of answer is read whatever was asked: the last fenced block
    of Python, or an answer that defines the function itself, is put behind the beginning; any other
    text continues it, up to the first of the paper's stop sequences.
    """

    hub = "openai/openai_humaneval@test"
    folder = "humaneval"

    kind: Literal["humaneval"] = "humaneval"
    form: Literal["completion", "chat"] = "completion"

    def problem_of(self, row: Row, number: int) -> Prompt:
        beginning = str(row["problem"] if "problem" in row else row["prompt"])
        question = beginning if self.form == "completion" else _ASKED.format(problem=beginning)
        needed = {
            "beginning": beginning,
            "name": str(row["entry_point"]),
            "test": str(row["test"]),
        }
        return Prompt(
            id=str(row["id"] if "id" in row else row["task_id"]),
            messages=asked(question),
            answer=json.dumps(needed),
        )

    def source_of(self, prompt: Prompt, completion: str) -> str:
        needed = json.loads(prompt.answer)
        answer = without_thoughts(completion)
        whole = last_block(answer)
        if whole is None and defines(answer, needed["name"]):
            whole = answer
        if whole is None:
            rest = cut(answer, STOPS)
            return needed["beginning"] + rest if rest.strip() else ""
        between = "\n\n" if defines(whole, needed["name"]) else ""
        return needed["beginning"] + between + whole

    def program_of(self, prompt: Prompt, source: str) -> Program:
        needed = json.loads(prompt.answer)
        # Helpers that the beginning defines are the benchmark's, so the tests use those.
        checks = Checks(
            source=f"{needed['test']}\ncheck({needed['name']})",
            names=(needed["name"],),
            before=needed["beginning"],
        )
        return Program(source, checks)
