"""`tandem diagnose`: what a run did to its student, token by token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tandem.behaviours.base import Behaviour
from tandem.engines import cache_bytes
from tandem.evaluation.intervals import Interval
from tandem.front.live import quiet_libraries
from tandem.front.probing import loaded_cast, split_named
from tandem.front.run_models import Named, folder_of
from tandem.front.suite_view import watching
from tandem.models.loading import load_model
from tandem.studies.diagnose import Diagnosis, diagnose, sets_of, watched_law
from tandem.studies.diagnostics_numbers import Curve
from tandem.studies.diagnostics_pair import Watch, pairs_of, questions_of
from tandem.studies.report import read_run
from tandem.tasks.base import Split
from tandem.training.config import RunConfig, load_config
from tandem.training.signals import terminated_like_ctrl_c
from tandem.types import Clock

FILE = "diagnose.json"
START = "start"
SUFFIXES = ("", "_before", "_teacher")
HEADER = ("", "student", "student before", "teacher")


@dataclass(frozen=True, slots=True)
class Asked:
    """What to ask of which model of a run. checkpoint: final, best, stepN, or start for the
    student as it was before the run."""

    checkpoint: str
    problems: int
    samples: int
    split: Split


def asked_of(checkpoint: str, problems: int, samples: int, split: str) -> Asked:
    """The command line's words as they are used; raises ValueError for a split there is not."""
    return Asked(checkpoint, problems, samples, split_named(split))


def print_diagnosis(
    run: Path, asked: Asked, *, output: Path | None, console: Console | None = None
) -> None:
    """Diagnose, print a summary and write diagnose.json into the run's folder, or `output`.

    Raises ValueError, in one sentence, for whatever the user can mend.
    """
    quiet_libraries()
    console = console or Console()
    folder = read_run(run)
    config = load_config(run / "config.yaml")
    with terminated_like_ctrl_c(), watching(console) as watch:
        found, problems = run_diagnosis(run, config, asked, folder.metrics, watch=watch)
    behaviour, _ = shared_law(config)
    data = found.as_json(
        run=folder.name,
        checkpoint=asked.checkpoint,
        problems=problems,
        samples_per_problem=asked.samples,
        split=asked.split,
        behaviour=str(behaviour.kind),
    )
    target = (output or run) / FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    target.write_text(text + "\n", encoding="utf-8")
    made = (
        f"{problems} {asked.split} problems × {asked.samples}, 95 % intervals over problems; "
        "entropies, log-probs and divergences in nats per token"
    )
    for line in (*summary(found), "", made, str(target)):
        console.print(Text(line), soft_wrap=True)


def run_diagnosis(
    run: Path, config: RunConfig, asked: Asked, metrics: list[dict[str, object]], *, watch: Watch
) -> tuple[Diagnosis, int]:
    """Load a run's models and diagnose; the diagnosis, and the problems that were asked."""
    path = (
        config.student.path
        if asked.checkpoint == START
        else str(folder_of(Named(str(run), asked.checkpoint)))
    )
    cast, device = loaded_cast(config)
    trained = load_model(config.student.model_copy(update={"path": path}), device=device)
    pair, before = pairs_of(
        config,
        cast,
        [trained, cast.student],
        device=device,
        cache_bytes=cache_bytes(config),
    )
    questions = questions_of(pair, config.task.prompts(asked.split)[: asked.problems])
    own, clock = shared_law(config)
    sets = sets_of(
        pair,
        before,
        config.task,
        questions,
        own=own,
        clock=clock,
        samples=asked.samples,
        watch=watch,
    )
    return diagnose(pair, sets, metrics), len(questions)


def shared_law(config: RunConfig) -> tuple[Behaviour, Clock]:
    """The first law of the run in which the teacher has a say, with its first clock; else a blend
    of a size that the paper plots."""
    stretches = config.timeline().stretches
    for stretch in stretches:
        law = watched_law(stretch.behaviour, stretch.first_clock)
        if law is stretch.behaviour:
            return law, stretch.first_clock
    first = stretches[0]
    return watched_law(first.behaviour, first.first_clock), first.first_clock


def summary(found: Diagnosis) -> list[str]:
    """The scalars of the three models side by side, then the curves over the budget."""
    names = [name for name in found.scalars if not name.endswith(SUFFIXES[1:])]
    rows = [HEADER]
    rows += [
        (name, *(_bounded(found.scalars.get(f"{name}{suffix}")) for suffix in SUFFIXES))
        for name in names
    ]
    swept = {
        name.removesuffix("_by_budget"): curve
        for name, curve in found.curves.items()
        if name.endswith("_by_budget")
    }
    return [*_columns(rows), "", *_columns(_swept(swept))]


def _swept(curves: dict[str, Curve]) -> list[tuple[str, ...]]:
    by_budget: dict[float, dict[str, str]] = {}
    for name, curve in curves.items():
        for x, mean, low, high in curve.points:
            bounds = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
            by_budget.setdefault(x, {})[name] = f"{mean:.3g}{bounds}"
    lines = [
        (f"{budget:g}", *(cells.get(name, "") for name in curves))
        for budget, cells in by_budget.items()
    ]
    return [("budget", *curves), *lines]


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _bounded(found: Interval | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.4g} [{found.low:.4g}, {found.high:.4g}]"
