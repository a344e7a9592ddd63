r"""Suites with a choice of answers: the letter of the right one stands in the box."""

from __future__ import annotations

import json
import re
from abc import ABC
from collections.abc import Sequence

from tandem.evaluation.suites.base import Suite, asked
from tandem.evaluation.suites.mathematics import PLAIN_TEMPLATE, STEP_BY_STEP
from tandem.tasks.base import Grade, Prompt
from tandem.tasks.boxed import NO_ANSWER
from tandem.tasks.grading import last_boxed

LETTERS = "ABCDEFGHIJ"
QUESTION = "{question}\n\n{choices}\n\nGive the letter of the right choice as the final answer."
# C, (C), C., C) and what follows; \text{C}; a word that begins with C is none of them.
_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*\)?\s*((?:[.):,].*)?)", re.DOTALL)
# Nothing but further letters: "A, B or C", "A) or B)".
_SEVERAL = re.compile(r"(?=.*\b[A-Ja-j]\b)(?:[\s().,:;/&]|\b(?:or|and|[A-Ja-j])\b)+", re.DOTALL)
_DRESS = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|boxed)\s*\{|[{}$*~]|\\[,;:! ]"
)


class ChoiceSuite(Suite, ABC):
    """Questions of which one choice is right. An answer is its letter, or its very words."""

    instruction = STEP_BY_STEP
    plain_template = PLAIN_TEMPLATE

    def grade(self, prompt: Prompt, completion: str) -> Grade:
        box = last_boxed(completion)
        if box is None:
            return NO_ANSWER
        data = json.loads(prompt.answer)
        letter = chosen(box, data["choices"])
        if letter is None:
            return Grade(correct=False, answered=False, reason="no choice")
        return Grade(correct=letter == data["letter"], answered=True, answer=letter)


def choice_prompt(identity: str, question: str, choices: Sequence[str], right: int) -> Prompt:
    """The question as it is asked, its choices lettered from A; `right` counts from 0."""
    assert 0 <= right < len(choices) <= len(LETTERS)
    lettered = "\n".join(f"{LETTERS[i]}) {choice}" for i, choice in enumerate(choices))
    text = QUESTION.replace("{choices}", lettered).replace("{question}", question.strip(), 1)
    answer = json.dumps({"letter": LETTERS[right], "choices": list(choices)}, ensure_ascii=False)
    return Prompt(id=identity, messages=asked(text), answer=answer)


def chosen(box: str, choices: Sequence[str]) -> str | None:
    """The letter of the choice that a box names; None where it names none of them."""
    text = _DRESS.sub("", box).strip()
    found = _LETTER.fullmatch(text)
    if found is not None:
        # A letter is what was asked for, also where a choice is itself a letter.
        letter = found[1].upper()
        if _SEVERAL.fullmatch(found[2]):
            return None
        return letter if letter in LETTERS[: len(choices)] else None
    said = [LETTERS[i] for i, choice in enumerate(choices) if _words(choice) == _words(text)]
    return said[0] if len(said) == 1 else None


def _words(text: str) -> str:
    return " ".join(_DRESS.sub("", text).split()).rstrip(".").casefold()
