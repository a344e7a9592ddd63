"""What tuning finds: each row's setting, by validation problems on the tuning seeds alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from tandem.studies.study_file import Fragment, StudyFile
from tandem.studies.study_folder import CHOSEN, write_whole

Score = Callable[[str, int, int], float]
"""(row, setting, seed) to the validation pass@1 at the end of that tuning run."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One setting of a sweep. scores: seed to pass@1 on the validation problems."""

    setting: Fragment
    scores: dict[int, float]

    @property
    def mean(self) -> float:
        return fmean(self.scores.values())


@dataclass(frozen=True, slots=True)
class Choice:
    """A row's sweep and the number of the setting that won; `tried` is empty without a choice."""

    chosen: int
    tried: tuple[Tried, ...]


def choose(file: StudyFile, score: Score) -> dict[str, Choice]:
    """Each row's setting with the highest mean over the tuning seeds; of equal ones the first."""
    found: dict[str, Choice] = {}
    for row, settings in file.rows.items():
        if len(settings.sweep) == 1:
            found[row] = Choice(0, ())
            continue
        tried = tuple(
            Tried(setting, {seed: score(row, number, seed) for seed in file.seeds.tuning})
            for number, setting in enumerate(settings.sweep)
        )
        found[row] = Choice(max(range(len(tried)), key=lambda i: (tried[i].mean, -i)), tried)
    return found


def first_settings(file: StudyFile) -> dict[str, int]:
    """Every row's first setting."""
    return dict.fromkeys(file.rows, 0)


def settings_so_far(file: StudyFile, folder: Path) -> dict[str, int]:
    """Every row's chosen setting, or its first while tuning has not ended."""
    path = folder / CHOSEN
    if not path.is_file():
        return first_settings(file)
    return {row: found["chosen"] for row, found in json.loads(path.read_bytes()).items()}


def write_choices(folder: Path, choices: Mapping[str, Choice]) -> None:
    """Write chosen.json: what was tried, what it scored, what was chosen."""
    data = {
        row: {
            "chosen": choice.chosen,
            "tried": [asdict(tried) | {"mean": tried.mean} for tried in choice.tried],
        }
        for row, choice in choices.items()
    }
    write_whole(folder / CHOSEN, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def described(setting: Fragment) -> str:
    """A setting in a few words, as tables and plans show it."""
    if not setting:
        return "as declared"
    text = yaml.safe_dump(
        setting, default_flow_style=True, width=2**30, allow_unicode=True, sort_keys=False
    )
    return text.strip().removeprefix("{").removesuffix("}")


def flat(setting: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """Nested groups as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in setting.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{within}{key}.")
        else:
            found[f"{within}{key}"] = value
    return found


def sweep_notes(file: StudyFile, *, baseline: str | None = None) -> list[str]:
    """How many runs chose each row's setting, and where that is not alike. baseline: another row
    than the declared."""
    runs = {row: file.tuning_runs(row) for row in file.rows}
    if len(set(runs.values())) == 1:
        each = next(iter(runs.values()))
        return [f"Tuning: {each} runs per row." if each else "No row was tuned."]
    told = ", ".join(f"{file.title(row)} {count}" for row, count in runs.items())
    notes = [f"Tuning runs differ: {told}."]
    baseline = baseline or file.baseline
    base = runs[baseline]
    more = [file.title(row) for row, count in runs.items() if count > base]
    if more:
        notes.append(
            f"The baseline, {file.title(baseline)}, was tuned with fewer runs than "
            f"{', '.join(more)}: part of their lead may be tuning."
        )
    return notes
