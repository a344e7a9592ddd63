"""What `tandem eval MODEL --suite …` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tandem.evaluation.suite_result import SuiteResult
from tandem.evaluation.suite_run import RESULT
from tandem.front.live import quiet_libraries
from tandem.front.suite_view import notes, table, watching
from tandem.front.suites import SuitePlan, evaluate_suites, plan_suites
from tandem.training.signals import terminated_like_ctrl_c


def evaluate(
    model: str,
    *,
    suites: str,
    data_root: Path | None,
    output: Path | None,
    samples: int | None,
    seed: int,
    engine: str | None,
    overrides: Sequence[str],
) -> None:
    """Evaluate the suites, named with commas between them, and print a table of all of them."""
    quiet_libraries()
    if engine is not None:
        overrides = [*overrides, f"limits.engine={engine}"]
    plan = plan_suites(
        model,
        suites=[name.strip() for name in suites.split(",")],
        data_root=data_root,
        output=output,
        samples=samples,
        seed=seed,
        overrides=overrides,
    )
    console = Console()
    _say(console, asked(plan))
    done: list[SuiteResult] = []
    try:
        with terminated_like_ctrl_c(), watching(console) as watch:
            for _, result in evaluate_suites(plan, watch=watch):
                done.append(result)
    except KeyboardInterrupt:
        _say(console, f"stopped; the same command goes on from the answers in {plan.output}")
    for line in (*(table(done) if done else ()), *notes(done)):
        _say(console, line)
    for result in done:
        _say(console, f"{result.suite}: {plan.output / result.suite / RESULT}")


def asked(plan: SuitePlan) -> str:
    """How the model reads problems, which decides what a score can be compared with."""
    model = plan.model
    if model.prompt == "chat":
        own = " with its own system prompt" if model.system is not None else ""
        how = f"in its chat template{own}"
    else:
        how = "as plain text (model.prompt=chat uses its chat template)"
    return f"{model.path} reads problems {how}; answers are kept in {plan.output}"


def _say(console: Console, text: str) -> None:
    # Never wrapped: one line is one line, whatever reads it.
    console.print(Text(text), soft_wrap=True)
