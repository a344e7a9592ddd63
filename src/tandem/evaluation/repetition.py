"""How much of a text repeats itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Words and numbers, and every other visible character on its own: "3+4=7" has five pieces.
_PIECES = re.compile(r"\w+|[^\w\s]")
NGRAM = 4
LEAST_LOOP = 32
LEAST_TURNS = 4


def pieces(text: str) -> list[str]:
    """The words and signs that repetition is counted in."""
    return _PIECES.findall(text)


def repeats(text: str, *, n: int = NGRAM) -> float:
    """Share of n-grams that occurred before: 1 − distinct / all; 0 where there is none.

    "seq-rep-n" of Welleck et al. (arXiv 1908.04319), over words and signs instead of a
    model's tokens, so that models with different tokenizers compare.
    """
    words = pieces(text)
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def looping_tail(text: str) -> float:
    """Share of a text's words and signs that end it as one unit repeated over and over.

    0 unless a suffix of at least 32 pieces goes through its unit at least 4 times; the last turn
    may be cut off. So a text stuck in a loop is told from one that repeats itself here and there.
    """
    words = pieces(text)
    longest = 0
    # A suffix of length L has period L − b, b the longest border of the reversed text's prefix.
    for length, border in enumerate(_borders(words[::-1]), start=1):
        if length >= LEAST_LOOP and length >= LEAST_TURNS * (length - border):
            longest = length
    return longest / len(words) if words else 0.0


def _borders(words: Sequence[str]) -> list[int]:
    """For each prefix the length of its longest proper prefix that is also its suffix.

    Knuth, Morris & Pratt, SIAM Journal on Computing 6, 1977: linear in the length.
    """
    borders: list[int] = []
    for i, word in enumerate(words):
        length = borders[i - 1] if i else 0
        while length and words[length] != word:
            length = borders[length - 1]
        borders.append(length + 1 if i and words[length] == word else 0)
    return borders
