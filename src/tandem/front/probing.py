"""`tandem probe`: how good the prefixes are that each behaviour leads to, before training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.text import Text

from tandem.behaviours import Student, Teacher
from tandem.behaviours.base import Behaviour
from tandem.engines import cache_bytes
from tandem.evaluation.intervals import Interval
from tandem.front.checking import build_method
from tandem.front.live import quiet_libraries
from tandem.front.suite_view import watching
from tandem.models.cast import Cast, load_cast
from tandem.studies.diagnostics_pair import Watch, pairs_of, questions_of
from tandem.studies.probe import Probed, ProbeResult, as_json, probe
from tandem.tasks.base import Split
from tandem.training.config import RunConfig, load_config
from tandem.training.own_recipes import recipe_path
from tandem.training.parallel import resolve_device
from tandem.training.signals import terminated_like_ctrl_c
from tandem.types import Clock

FILE = "probe.json"
# Of the longest response: early, where prefixes differ most.
SHARES = (16, 8, 4, 2)
HEADER: tuple[str, ...] = (
    "behaviour",
    "cut at",
    "ended",
    "then the teacher",
    "− student's",
    "then the student",
    "− student's",
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What to probe besides the recipe. behaviours: further ones, as `kind name=value`."""

    lengths: str | None
    behaviours: Sequence[str]
    problems: int
    samples: int
    split: Split


def asked_of(
    lengths: str | None, behaviours: Sequence[str], problems: int, samples: int, split: str
) -> Asked:
    """The command line's words as they are used; raises ValueError for a split there is not."""
    return Asked(lengths, behaviours, problems, samples, split_named(split))


def split_named(text: str) -> Split:
    """One of a task's splits by its name."""
    for split in get_args(Split):
        if split == text:
            return split
    raise ValueError(f"split is {text!r}; a task has {', '.join(get_args(Split))}")


def print_probe(
    recipe: str,
    overrides: Sequence[str],
    asked: Asked,
    *,
    output: Path | None,
    console: Console | None = None,
) -> None:
    """Probe, print the table and write probe.json into `output`, or runs/<name>-probe/.

    Raises ValueError, in one sentence, for whatever the user can mend.
    """
    quiet_libraries()
    console = console or Console()
    config = load_config(recipe_path(recipe), overrides)
    behaviours, notes = behaviours_of(config, asked.behaviours)
    with terminated_like_ctrl_c(), watching(console) as watch:
        result = run_probe(config, behaviours, asked, watch=watch)
    about = {
        "model": config.student.path,
        "teacher": teacher_names(config),
        "task": str(config.task.kind),
        "seed": config.seed,
        "split": asked.split,
    }
    folder = output or Path("runs") / f"{config.name}-probe"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(as_json(result, **about), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
    for line in (*table(result), "", *notes, *footnotes(result, asked.split), str(folder / FILE)):
        console.print(Text(line), soft_wrap=True)


def loaded_cast(config: RunConfig) -> tuple[Cast, torch.device]:
    """The models of a recipe, where and on as many threads as it says, and that device."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = resolve_device(config.device)
    cast = load_cast(
        config.student,
        config.teachers_by_name(),
        config.reference,
        device=device,
        teachers_device="cpu" if config.residency == "one" else None,
    )
    return cast, device


def run_probe(
    config: RunConfig, behaviours: Sequence[Probed], asked: Asked, *, watch: Watch
) -> ProbeResult:
    """Load the models of a recipe and probe them."""
    lengths = lengths_of(asked.lengths, limit=config.rollout.max_new_tokens)
    cast, device = loaded_cast(config)
    (pair,) = pairs_of(config, cast, [cast.student], device=device, cache_bytes=cache_bytes(config))
    questions = questions_of(pair, config.task.prompts(asked.split)[: asked.problems])
    return probe(
        pair,
        config.task,
        questions,
        behaviours,
        lengths=lengths,
        samples=asked.samples,
        watch=watch,
    )


def behaviours_of(config: RunConfig, more: Sequence[str]) -> tuple[list[Probed], list[str]]:
    """The student, the teacher, the recipe's behaviours each at its first clock, and `more`; and
    what there is to say of those that were left out.

    Raises ValueError for one of `more` that is no behaviour, or draws no token from a law.
    """
    first = Clock(0, config.training.steps)
    found = {"student": Probed("student", Student(), first)}
    found["teacher"] = Probed("teacher", Teacher(), first)
    notes: list[str] = []
    for stretch in config.timeline().stretches:
        if stretch.behaviour.gives():
            notes.append(
                f"{label_of(stretch.behaviour)} is left out: it opens responses with tokens of "
                "given completions, as the teacher's rows do"
            )
            continue
        own = Probed(label_of(stretch.behaviour), stretch.behaviour, stretch.first_clock)
        found.setdefault(own.label, own)
    for text in more:
        kind, *fields = text.split()
        behaviour = build_method(kind, fields)
        if not isinstance(behaviour, Behaviour) or behaviour.gives():
            raise ValueError(
                f"{text!r} is no behaviour that draws its tokens; name one such as "
                "'fixed_budget_blend budget=0.02'"
            )
        own = Probed(label_of(behaviour), behaviour, first)
        found.setdefault(own.label, own)
    return list(found.values()), notes


def label_of(behaviour: Behaviour) -> str:
    """A behaviour as the command line names it: its kind and its fields."""
    fields = {name: value for name, value in behaviour.model_dump().items() if name != "kind"}
    given = [f"{name}={value}" for name, value in fields.items() if value is not None]
    return " ".join([str(behaviour.kind), *given])


def teacher_names(config: RunConfig) -> str:
    """The teachers' paths, each with its name where there are several."""
    teachers = config.teachers_by_name()
    if config.teacher is not None:
        return config.teacher.path
    return ", ".join(f"{name}: {one.path}" for name, one in teachers.items())


def lengths_of(text: str | None, *, limit: int) -> list[int]:
    """`2,4,8` as numbers; by default a sixteenth, an eighth, a quarter and half of the limit."""
    if text is None:
        return sorted({max(1, limit // share) for share in SHARES})
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"--lengths is {text!r}; give numbers of tokens such as 2,4,8")
    return [int(word) for word in words]


def table(result: ProbeResult) -> list[str]:
    """One line per behaviour and length, in columns; per cent, with intervals over problems."""
    rows = [HEADER]
    by_place = {(row.behaviour, row.length, row.continued_by): row for row in result.rows}
    for label in result.own:
        for length in result.lengths:
            taught, alone = (by_place[label, length, who] for who in ("teacher", "student"))
            rows.append(
                (
                    label,
                    str(length),
                    f"{100 * taught.finished:.1f} %",
                    _interval(taught.success),
                    "" if taught.difference is None else _interval(taught.difference, signed=True),
                    _interval(alone.success),
                    "" if alone.difference is None else _interval(alone.difference, signed=True),
                )
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def footnotes(result: ProbeResult, split: Split) -> list[str]:
    """How the numbers were made, and the behaviours' own accuracy."""
    own = ", ".join(f"{label} {_interval(found)}" for label, found in result.own.items())
    return [
        f"per cent right of {result.problems} {split} problems × {result.samples}, 95 % intervals "
        "over problems; a response that had ended counts as it is",
        f"whole responses: {own}",
    ]


def _interval(found: Interval, *, signed: bool = False) -> str:
    mean = f"{100 * found.mean:+.1f}" if signed else f"{100 * found.mean:.1f}"
    return f"{mean} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
