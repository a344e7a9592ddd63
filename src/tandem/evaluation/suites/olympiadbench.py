"""OlympiadBench: open-ended, text-only mathematics of competitions, English (arXiv 2402.14008).

Its answers come in several parts, with inner dollar signs, with units, with a tolerance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from tandem.evaluation.suites.base import asked
from tandem.evaluation.suites.mathematics import PROBLEM_COLUMNS, MathSuite
from tandem.tasks.base import Grade, Prompt
from tandem.tasks.boxed import NO_ANSWER, graded
from tandem.tasks.columns import Row
from tandem.tasks.grading import LONGEST, Verdict, last_boxed
from tandem.tasks.spelling import number, plain

MOST_PARTS = 24
# A slip of the data set: a name in front of an interval, which math-verify cannot read.
_NAMED_INTERVAL = re.compile(r"^[a-z](?=[(\[][^,()]*,[^,()]*[)\]]$)")
_OPENING, _CLOSING = "([{", ")]}"
_JOINED = re.compile(
    r"\\(?:text|textrm|mbox)\s*\{\s*(?:,\s*)?(?:and|or)\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|;"
)
_LEFT = re.compile(r"\\(?:left|right|big|Big)(?![a-zA-Z])")


@dataclass(frozen=True, slots=True)
class Gold:
    """What a right answer is. parts: of a problem with several answers, in no order; else none.
    tolerance: absolute, for numbers."""

    whole: str
    parts: tuple[str, ...]
    tolerance: float | None


class OlympiadBench(MathSuite):
    """675 problems (674 on the hub: one was withdrawn); 64 samples each.

    Where a problem asks for several answers, each must be given once, in any order.
    """

    hub = "Hothan/OlympiadBench#OE_TO_maths_en_COMP@train"
    folder = "olympiadbench_math_en"

    kind: Literal["olympiadbench"] = "olympiadbench"
    samples: int = Field(default=64, gt=0)

    def problem_of(self, row: Row, number: int) -> Prompt:
        context = str(row.get("context") or "")
        text = str(self.column(row, *PROBLEM_COLUMNS))
        whole = without_dollars(self.column(row, "final_answer")[0])
        error = row.get("error")
        several = bool(row.get("is_multiple_answer"))
        gold = {
            "whole": _NAMED_INTERVAL.sub("", whole),
            "parts": parts_of(whole) if several else [],
            "tolerance": None if error in (None, "") else float(str(error)),
        }
        return Prompt(
            id=self.id_of(row, number),
            messages=asked(f"{context}\n{text}" if context else text),
            answer=json.dumps(gold),
        )

    def grade_many(self, items: Sequence[tuple[Prompt, str]]) -> list[Grade]:
        golds = [gold_of(prompt) for prompt, _ in items]
        found = [last_boxed(completion) for _, completion in items]
        boxes = [None if box is None else _NAMED_INTERVAL.sub("", box) for box in found]
        whole = iter(
            self.pool.grade(
                [(g.whole, box) for g, box in zip(golds, boxes, strict=True) if box is not None]
            )
        )
        verdicts = [None if box is None else next(whole) for box in boxes]
        verdicts = self._by_parts(golds, boxes, verdicts)
        return [
            NO_ANSWER
            if box is None or verdict is None
            else graded(Verdict(True) if _within(gold, box) else verdict, box)
            for gold, box, verdict in zip(golds, boxes, verdicts, strict=True)
        ]

    def _by_parts(
        self,
        golds: Sequence[Gold],
        boxes: Sequence[str | None],
        verdicts: Sequence[Verdict | None],
    ) -> list[Verdict | None]:
        """Answers to several questions, part by part: as a set 1, 3, 3, 16 equals 16, 3, 1, 1."""
        decided = list(verdicts)
        for i, (gold, box, verdict) in enumerate(zip(golds, boxes, verdicts, strict=True)):
            if len(gold.parts) < 2 or box is None or verdict is None or len(box) > LONGEST:
                continue
            given = parts_of(box)
            same_count = len(given) == len(gold.parts)
            as_a_set = same_count and len(set(gold.parts)) == len(gold.parts)
            if len(given) == 1 or (verdict.right and as_a_set):
                continue
            if not same_count or len(given) > MOST_PARTS:
                decided[i] = Verdict(False)
                continue
            pairs = [(one, other) for one in gold.parts for other in given]
            found = iter(self.pool.grade(pairs))
            equal = [[next(found).right for _ in given] for _ in gold.parts]
            decided[i] = Verdict(_one_to_one(equal))
        return decided


def gold_of(prompt: Prompt) -> Gold:
    """What `problem_of` wrote down."""
    data: dict[str, Any] = json.loads(prompt.answer)
    return Gold(str(data["whole"]), tuple(data["parts"]), data["tolerance"])


def without_dollars(answer: Any) -> str:
    """`$a$, $b$` as `a, b`: the dollars only mark mathematics."""
    return str(answer).replace(r"\$", "\0").replace("$", "").replace("\0", r"\$").strip()


def parts_of(answer: str) -> list[str]:
    r"""`x=1, x=-2` as `1`, `-2`: parted where commas, semicolons, `and` or `or` stand outside all
    brackets, `\pm` both ways, braces around it all and left sides taken off."""
    text = _JOINED.sub(",", _LEFT.sub("", plain(without_dollars(answer))))
    if text.startswith(r"\{") and text.endswith(r"\}") and text.count(r"\{") == 1:
        text = text[2:-2]
    parts: list[str] = []
    depth, part = 0, ""
    for letter in text:
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += letter
    parts.append(part)
    stripped = [part.strip().rstrip("\\").strip() for part in parts]
    return [sign for part in stripped if part for sign in _both_signs(part)]


def _both_signs(part: str) -> list[str]:
    if part.count(r"\pm") != 1:
        return [part]
    plus, minus = part.replace(r"\pm", "+"), part.replace(r"\pm", "-")
    return [plus.removeprefix("+").strip(), minus]


def _one_to_one(equal: list[list[bool]]) -> bool:
    """Whether every row can have a column of its own (Kuhn's augmenting paths)."""
    owner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, fits in enumerate(equal[row]):
            if fits and column not in seen:
                seen.add(column)
                if column not in owner or place(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(equal)))


def _within(gold: Gold, box: str) -> bool:
    """Whether a number lies within the tolerance that the problem allows."""
    if gold.tolerance is None or len(box) > LONGEST:
        return False
    wanted, given = number(gold.whole), number(box)
    # The edge itself counts, whatever rounding does to it.
    return (
        wanted is not None
        and given is not None
        and abs(wanted - given) <= gold.tolerance * (1 + 1e-9)
    )
