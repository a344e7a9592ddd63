"""`tandem demo`: the embedded student learns twice, by vanilla OPD and by TRB, and is judged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tandem import run
from tandem.evaluation import EvaluationResult, Interval, paired_difference
from tandem.front.live import answering, duration, quiet_libraries, view
from tandem.models.settings import ModelSettings
from tandem.studies.gap import gap_recovered
from tandem.studies.report import comparison_page, read_run
from tandem.training.config import EvaluationSettings, RunConfig, load_config
from tandem.training.events import Event, Listener, Note
from tandem.training.own_recipes import recipe_path
from tandem.training.signals import terminated_like_ctrl_c

RECIPE = "arithmetic"
# Judged once, on a split that neither training nor its evaluations ever see.
JUDGED_PROBLEMS = 500
JUDGED_SAMPLES = 4
HEADER = ("model", "pass@1", "gap recovered")
METHODS = {"vanilla OPD": ("opd", ("behaviour.kind=student",)), "TRB": ("trb", ())}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo found. scores: judged models in the order of the table; seconds: in all."""

    folder: Path
    scores: dict[str, EvaluationResult]
    gaps: dict[str, Interval]
    difference: Interval
    seconds: float


def run_demo(
    folder: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    problems: int = JUDGED_PROBLEMS,
) -> DemoResult | None:
    """Train both, judge teacher, student and both results on the test split, print the table.

    folder: runs/demo-N by default, the first that is free. overrides: over the recipe, for both
    runs. problems: of the test split, to judge on. None where somebody stopped it.
    Raises ValueError where `folder` already holds something.
    """
    console = console or Console()
    folder = _fresh(folder)
    try:
        with terminated_like_ctrl_c():
            return _run(folder, overrides, console, problems)
    except KeyboardInterrupt:
        # While judging there is nothing to save; while training the loop turns it into a request.
        done = any(folder.iterdir())
        said = f"stopped; what was done lies in {folder}" if done else "stopped; nothing was kept"
        console.print(Text(said), soft_wrap=True)
        return None
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def _run(
    folder: Path, overrides: Sequence[str], console: Console, problems: int
) -> DemoResult | None:
    quiet_libraries()
    began = time.monotonic()
    recipe = recipe_path(RECIPE)
    configs = {
        method: load_config(recipe, [*own, *overrides, f"name={name}"])
        for method, (name, own) in METHODS.items()
    }
    first = configs["TRB"]
    if first.teacher is None:
        raise ValueError("the demo judges one teacher: leave teachers out")
    scores = {
        "teacher": _judge(first.teacher, first, "teacher", problems, console),
        "student before": _judge(first.student, first, "student before", problems, console),
    }
    told: set[str] = set()
    for method, config in configs.items():
        with view(method, console) as listen:
            end = run.train(config, runs=folder, listener=_told_once(listen, told))
        if end.interrupted:
            console.print(Text(f"stopped; what was done lies in {folder}"), soft_wrap=True)
            return None
        final = config.student.model_copy(update={"path": str(end.folder / "final")})
        scores[method] = _judge(final, config, method, problems, console)
    result = DemoResult(
        folder=folder,
        scores=scores,
        gaps={method: _gap(scores, method) for method in METHODS},
        difference=paired_difference(scores["TRB"].scores, scores["vanilla OPD"].scores),
        seconds=time.monotonic() - began,
    )
    _write(result)
    for line in summary(result):
        console.print(Text(line), soft_wrap=True)
    return result


def _told_once(listen: Listener, told: set[str]) -> Listener:
    """`listen` without the notes on what an earlier run has told of: all runs are of one pair.

    told: what they spoke of, up to the colon; it grows as notes come.
    """
    before = frozenset(told)

    def hear(event: Event) -> None:
        if isinstance(event, Note):
            subject = event.text.partition(":")[0]
            told.add(subject)
            if subject in before:
                return
        listen(event)

    return hear


def _fresh(folder: Path | None) -> Path:
    if folder is None:
        free: Iterator[Path] = (Path("runs") / f"demo-{n}" for n in count(1))
        folder = next(path for path in free if not path.exists())
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} already holds something; name another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _judge(
    model: ModelSettings, config: RunConfig, title: str, problems: int, console: Console
) -> EvaluationResult:
    settings = EvaluationSettings(
        every=1, problems=problems, samples=JUDGED_SAMPLES, split="test", temperature=1.0
    )
    with answering(f"judging {title}", console) as on_progress:
        return run.evaluate(
            model,
            task=config.task,
            settings=settings,
            max_prompt_tokens=config.rollout.max_prompt_tokens,
            max_new_tokens=config.rollout.max_new_tokens,
            seed=config.seed,
            device=config.device,
            threads=config.threads,
            on_progress=on_progress,
        )


def _gap(scores: dict[str, EvaluationResult], method: str) -> Interval:
    return gap_recovered(
        teacher=scores["teacher"].scores,
        before=scores["student before"].scores,
        after=scores[method].scores,
    )


def rows(result: DemoResult) -> list[dict[str, str]]:
    """The table, one mapping per line with the keys of HEADER."""
    return [
        {
            HEADER[0]: model,
            HEADER[1]: _per_cent(score.pass_at_1),
            HEADER[2]: _per_cent(result.gaps[model]) if model in result.gaps else "",
        }
        for model, score in result.scores.items()
    ]


def summary(result: DemoResult) -> list[str]:
    """The lines that the demo prints last."""
    table = [dict(zip(HEADER, HEADER, strict=True)), *rows(result)]
    widths = {key: max(len(row[key]) for row in table) for key in HEADER}
    lines = ["  ".join(f"{row[key]:<{widths[key]}}" for key in HEADER).rstrip() for row in table]
    return [
        "",
        *lines,
        "",
        *notes(result),
        f"{duration(result.seconds)} in all; {result.folder / 'report.html'}",
    ]


def notes(result: DemoResult) -> list[str]:
    """How the numbers were made, and what they cannot say."""
    sample = next(iter(result.scores.values()))
    return [
        f"pass@1: {len(sample.scores)} test problems × {sample.samples} samples at temperature 1, "
        "95 % intervals over problems",
        f"TRB − vanilla OPD: {_per_cent(result.difference, signed=True)} points; one seed each, so "
        "no verdict on the methods",
    ]


def _per_cent(interval: Interval, *, signed: bool = False) -> str:
    mean = f"{100 * interval.mean:+.1f}" if signed else f"{100 * interval.mean:.1f} %"
    return f"{mean} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _write(result: DemoResult) -> None:
    numbers = {
        "pass@1": {model: _bounds(score.pass_at_1) for model, score in result.scores.items()},
        "gap_recovered": {method: _bounds(gap) for method, gap in result.gaps.items()},
        "trb_minus_vanilla": _bounds(result.difference),
    }
    (result.folder / "results.json").write_text(json.dumps(numbers, indent=2) + "\n")
    runs = {method: read_run(result.folder / name) for method, (name, _) in METHODS.items()}
    text = comparison_page(
        runs,
        title="Vanilla OPD and TRB",
        header=HEADER,
        rows=rows(result),
        notes=notes(result),
    )
    (result.folder / "report.html").write_text(text)


def _bounds(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
