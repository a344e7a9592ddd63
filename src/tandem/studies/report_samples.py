"""Samples that runs kept while training, answers to one prompt side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tandem.studies.report_browser import Item, browser
from tandem.studies.report_tokens import Side

STEPS_SHOWN = 6
"""Steps whose samples are shown, evenly spaced, the last one first."""
_NO_FACTS = ("id", "step", "prompt", "completion", "correct")

Samples = Sequence[Mapping[str, Any]]


def samples_section(runs: Mapping[str, Samples], *, seed: int | None) -> str:
    """A browser of samples.jsonl of one run per method. seed: which seed's runs they are.

    Runs on the same seed see the same prompts, so their answers stand beside each other; a prompt
    that only one of them kept stands alone. Empty where nothing was kept.
    """
    items = _items(runs)
    if not items:
        return ""
    of = "" if seed is None else f", seed {seed}"
    return f"<h2>Samples while training{of}</h2>{browser(items)}"


def _items(runs: Mapping[str, Samples]) -> list[Item]:
    steps = sorted({sample["step"] for samples in runs.values() for sample in samples})
    if not steps:
        return []
    # A step that all methods have comes before one that only some have.
    shared = [s for s in steps if all(any(x["step"] == s for x in one) for one in runs.values())]
    steps = shared or steps
    kept = {steps[i] for i in np.linspace(0, len(steps) - 1, STEPS_SHOWN).round().astype(int)}
    items: list[Item] = []
    for step in sorted(kept, reverse=True):
        by_prompt: dict[tuple[Any, str], list[Side]] = {}
        for method, samples in runs.items():
            for sample in samples:
                if sample["step"] == step:
                    place = (sample.get("id"), str(sample["prompt"]))
                    by_prompt.setdefault(place, []).append(_side(method, sample))
        items += [
            Item(f"step {step}", prompt, tuple(sides)) for (_, prompt), sides in by_prompt.items()
        ]
    return items


def _side(method: str, sample: Mapping[str, Any]) -> Side:
    facts = [f"{key}: {_plain(value)}" for key, value in sample.items() if key not in _NO_FACTS]
    return Side(
        who=method,
        text=str(sample["completion"]),
        correct=sample.get("correct"),
        about=", ".join(facts),
    )


def _plain(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
