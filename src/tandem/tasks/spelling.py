r"""Answers as they are written and as math-verify reads them right.

What is mended here was seen to be graded wrongly by math-verify 0.9 in `tests/tasks/`
(`tricky_answers.jsonl`): scientific notation (`4.5e33` was 4.5·e·33), signs beyond ASCII (`√51`),
thousands parted by spaces, numbers before words that it does not know (`27 \text{ miles per
hour}`), `72.` and `= 72`, the base of a number (`52_8` equalled `52_9`), a left side other than
`x` or `f(x)`.
"""

from __future__ import annotations

import math
import re

_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "±": r"\pm "}
    | {"°": r"^{\circ}", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne "}
    | {"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "≈": r"\approx "}
)
_SPACE = r"(?:\\[,;:! ]|\\quad|~|\s)"
_NUMBER = (
    r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:\s*\\(?:times|cdot)\s*10\^(?:\{[-+]?\d+\}|\d))?"
    r"|[-+]?\\[dt]?frac\{\d+\}\{\d+\}"
)
_TEXT = r"\\(?:text|textrm|textbf|textit|mathrm|mbox)\s*"
_TENS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_TIMES = {word: f"10^{{{ten}}}" for word, ten in _TENS.items()} | {"dozen": "12"}
# Words after a number that are no unit: they change its value, or join it to another one.
_NO_UNIT = (
    rf"\b(?:or|and|{'|'.join(_TIMES)}|percent|percentage|pct|factorial|pi|sqrt|log|ln|exp"
    r"|inf|infty|sin|cos|tan)\b"
)
_RULES = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"^\s*\*\*|\*\*\s*$", ""),
        (r"\\varnothing(?![a-zA-Z])", r"\\emptyset"),
        (r"\bnp\.(?=[a-z])", r"\\"),
        (r"√\s*(\d+|[a-zA-Z])", r"\\sqrt{\1}"),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        # 4.5e33
        (r"(?<![\w.])(\d+\.?\d*|\.\d+)[eE]\+?(-?\d+)(?![\w.])", r"\1 \\times 10^{\2}"),
        # 72. and 1./3, but neither 7.5 nor an ellipsis
        (r"(?<=\d)\.(?![\d.])", ""),
        # E_1 was taken for Euler's number and what follows was dropped: 1/3 answered (1/3) E_1
        (r"(?<![A-Za-z\\])E(?=\s*_)", r"\\Xi"),
        # 1 4/5
        (r"^\s*(-?\d+)\s+(\d+)/(\d+)\s*$", r"\1\\frac{\2}{\3}"),
        (r"^\s*(?:=|\\approx|\\simeq|\\sim)(?![a-zA-Z])\s*", ""),
        (rf"^\s*{_TEXT}\{{[^{{}}]*(?:\bis|:|=)\s*\}}{_SPACE}*", ""),
        (r"\\text\{\s*(?:an?|the)\s+", r"\\text{"),
        (rf"{_SPACE}*{_TEXT}\{{\s*percent\s*\}}", r"\\%"),
        # 3 \text{ million dollars}, 3 million
        *(
            rule
            for word, many in _TIMES.items()
            for rule in (
                (
                    rf"(?<=\d){_SPACE}*{_TEXT}\{{\s*{word}\b([^{{}}]*)\}}",
                    rf" \\times {many}\\text{{\1}}",
                ),
                (rf"(?<=\d){_SPACE}*{word}\b", rf" \\times {many}"),
            )
        ),
        # 27 \text{ miles per hour}
        (
            rf"^\s*({_NUMBER}){_SPACE}*{_TEXT}\{{(?![^{{}}]*{_NO_UNIT})[^{{}}\d]*\}}"
            rf"(?:\^\{{?-?\d\}}?)?{_SPACE}*$",
            r"\1",
        ),
    )
)
_GROUPED = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:(?:{_SPACE}|\{{,\}})+\d{{3}})+(?![\d,.])")
_INTEGER = re.compile(r"-?(?:\d+|\d{1,3}(?:,\d{3})+)")
_IN_BASE = re.compile(r"\s*([0-9A-Za-z]+)_\s*(?:\{\s*(\d+)\s*\}|(\d+))\s*")
_LEFT_SIDE = re.compile(
    r"^\s*\\?[A-Za-z]+\s*(?:_\s*(?:\{[^{}=]*\}|\w))?\s*(?:\([^()=]*\))?\s*=(?![^=]*=)"
)
_UNIT_WORDS = r"[A-Za-z]{2,}(?:[ ./]+[A-Za-z]{2,})*(?:\^\{?-?\d\}?)?$"
_BARE_UNIT = re.compile(rf"^\s*({_NUMBER}){_SPACE}*(?!.*{_NO_UNIT}){_UNIT_WORDS}")
# In a gold the letters may be variables, so a unit stands apart there: 10 cm, but not 2ab.
_BARE_UNIT_OF_GOLD = re.compile(rf"^\s*({_NUMBER}){_SPACE}+(?!.*{_NO_UNIT}){_UNIT_WORDS}")
_WORDS = re.compile(rf"{_TEXT}\{{[^{{}}]*\}}|\\(?:begin|end)\s*\{{\w*\}}|\\[A-Za-z]+")
_UNIT_AFTER_FORMULA = re.compile(rf"(?<=\S){_SPACE}*{_TEXT}\{{[^{{}}]*\}}(?:\^\{{?-?\d\}}?)?\s*$")
_PERCENT = re.compile(rf"{_SPACE}*(?:\\?%|{_TEXT}\{{\s*percent\s*\}}|percent)\s*$")


def plain(text: str) -> str:
    r"""The same answer in a spelling that math-verify reads right. Linear in the text's length."""
    text = text.translate(_SIGNS)
    for rule, new in _RULES:
        text = rule.sub(new, text)
    text = _GROUPED.sub(lambda found: re.sub(r"\D", "", found.group()), text)
    return text.strip().rstrip(" .;,\\\n\t")


def is_formula(gold: str) -> bool:
    r"""Whether letters stand in a gold answer, so that those of an answer are variables.

    Beside a number they are units, which math-verify leaves out: of `6m` too, which 6 answered.
    """
    return bool(_letters(_BARE_UNIT_OF_GOLD.sub(r"\1", plain(gold))))


def readings(gold: str, answer: str) -> list[tuple[str, str]]:
    r"""The pairs of which one has to be equal: as written, then without what one side lacks.

    `m_{\max}=n^2` answers `n^2`, as math-verify has it for `x=5`; `4.2\%` answers 4.2, as it has
    it for whole numbers: a question for a percentage is often answered without its sign.
    """
    gold, answer = plain(gold), plain(answer)
    gold = _BARE_UNIT_OF_GOLD.sub(r"\1", gold)
    letters = _letters(gold)
    for letter in sorted(letters):
        # It reads R and r as one symbol.
        if letter.isupper() and letter.lower() in letters:
            gold, answer = (_marked(text, letter) for text in (gold, answer))
    found = [(gold, answer)]
    if letters:
        found.append((_UNIT_AFTER_FORMULA.sub("", gold), _UNIT_AFTER_FORMULA.sub("", answer)))
    else:
        found.append((gold, _BARE_UNIT.sub(r"\1", answer)))
    if ("=" in gold) != ("=" in answer):
        found.append((_LEFT_SIDE.sub("", gold), _LEFT_SIDE.sub("", answer)))
    if _PERCENT.search(gold) or _PERCENT.search(answer):
        found.append((_PERCENT.sub("", gold), _PERCENT.sub("", answer)))
    return list(dict.fromkeys(found))


def _letters(text: str) -> set[str]:
    """The letters of a formula: neither commands nor words."""
    return set(re.sub(r"[^A-Za-z]", "", _WORDS.sub("", plain(text))))


def _marked(text: str, letter: str) -> str:
    r"""`text` with a subscript at every bare `letter`, its uses as a function's name left out."""
    return re.sub(
        rf"(\\[A-Za-z]+)|{letter}(?!\s*[_(])",
        lambda found: found[1] or f"{letter}_{{1}}",
        text,
    )


def same_in_base(gold: str, answer: str) -> bool | None:
    """Whether two numbers in a base agree, digit by digit; None where the gold names no base.

    An answer may leave the base out; its digits in base ten are another number.
    """
    wanted = _IN_BASE.fullmatch(gold)
    if wanted is None or not wanted[1][0].isdigit():
        return None
    given = _IN_BASE.fullmatch(answer)
    if given is None:
        return answer.strip() == wanted[1]
    return given[1] == wanted[1] and (given[2] or given[3]) == (wanted[2] or wanted[3])


def same_integer(gold: str, answer: str) -> bool | None:
    """Whether two whole numbers agree, which needs no algebra; None for anything else."""
    wanted, given = _INTEGER.fullmatch(plain(gold)), _INTEGER.fullmatch(plain(answer))
    if wanted is None or given is None:
        return None
    return int(wanted[0].replace(",", "")) == int(given[0].replace(",", ""))


def number(text: str) -> float | None:
    r"""The value of one decimal, fraction or number in scientific notation, its unit, degree and
    percent signs left out; None for anything else."""
    text = re.sub(rf"\^\s*(?:\{{\s*\\circ\s*\}}|\\circ)|\\?\$|{_SPACE}", "", plain(text))
    text = _PERCENT.sub("", text).replace("{,}", "")
    text = re.sub(r"\\[dt]?frac\{(-?[\d.]+)\}\{([\d.]+)\}", r"\1/\2", text)
    text = re.sub(r"\\(?:times|cdot)10\^(?:\{([-+]?\d+)\}|(\d+))", r"e\1\2", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    above, slash, below = text.partition("/")
    try:
        value = float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        return None
    return value if math.isfinite(value) else None


def decimals_more(gold: str) -> int:
    """How many decimals beyond math-verify's six must agree: below a thousandth as many as the
    gold has zeros. By six alone every tiny number equals every other."""
    value = number(gold)
    if value is None or value == 0.0 or abs(value) >= 1e-3:
        return 0
    return -math.floor(math.log10(abs(value)))


def vote(text: str) -> str:
    r"""The answer as votes are counted by: spellings that differ in spaces, in `\left` or
    `\dfrac`, or in how they write one number, are one."""
    value = number(text)
    if value is not None:
        return f"{value:.12g}"
    text = re.sub(rf"\\(?:left|right)(?![a-z])|{_SPACE}", "", plain(text))
    return re.sub(r"\\[dt]frac(?![a-z])", r"\\frac", text)
