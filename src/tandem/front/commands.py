"""What the commands of `tandem` do; cli.py only parses and imports this when it must."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tandem import run
from tandem.behaviours import AnyBehaviour, Behaviour
from tandem.front import methods_table
from tandem.front.checking import check as findings_of
from tandem.front.checking import print_findings
from tandem.front.doctor import Check, describe, examine
from tandem.front.dry_run import dry_run as dry_run_text
from tandem.front.evaluating import plan
from tandem.front.live import accuracy, answering, quiet_libraries, view
from tandem.models.cast import load_cast, role_of
from tandem.objectives import AnyObjective, Objective
from tandem.settings import Settings
from tandem.tasks import AnyTask
from tandem.training.claim import has_begun
from tandem.training.components import kinds
from tandem.training.config import RunConfig, load_config
from tandem.training.own_recipes import recipe_path
from tandem.training.pretrain import load_pretrain_settings
from tandem.training.pretrain import pretrain as run_pretraining
from tandem.training.signals import terminated_like_ctrl_c

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def train(recipe: str, overrides: Sequence[str], *, resume: bool) -> None:
    """Train by a recipe, watched."""
    config = load_config(recipe_path(recipe), overrides)
    quiet_libraries()
    # Under torchrun one process speaks.
    console = Console(quiet=os.environ.get("RANK", "0") != "0")
    try:
        with terminated_like_ctrl_c(), view(config.name, console) as listen:
            result = run.train(config, resume=resume, listener=listen)
    except KeyboardInterrupt:
        # While models load there is nothing to save yet; while the final model is written the last
        # checkpoint lies there already.
        folder = Path("runs") / config.name
        stopped = (
            f"stopped; go on with --resume: {folder}"
            if has_begun(folder)
            else "stopped before the first step; nothing was kept"
        )
        console.print(Text(stopped), soft_wrap=True)
        return
    done = (
        f"stopped after step {result.steps}; go on with --resume" if result.interrupted else "done"
    )
    console.print(Text(f"{done}: {result.folder / 'report.html'}"), soft_wrap=True)


def evaluate(
    model: str, *, task: str | None, overrides: Sequence[str], seed: int, engine: str | None
) -> None:
    """Print pass@1 of a model with its interval. engine: None is the run's own, or native."""
    quiet_libraries()
    if engine is not None:
        overrides = [*overrides, f"limits.engine={engine}"]
    chosen = plan(model, task=task, overrides=overrides)
    console = Console()
    with answering(chosen.model.path, console) as on_progress:
        result = run.evaluate(
            chosen.model,
            task=chosen.task,
            settings=chosen.evaluation,
            max_prompt_tokens=chosen.limits.max_prompt_tokens,
            max_new_tokens=chosen.limits.max_new_tokens,
            slots=chosen.limits.slots,
            threads=chosen.limits.threads,
            engine=chosen.limits.engine,
            seed=seed,
            on_progress=on_progress,
        )
    problems = f"{len(result.scores)} {chosen.evaluation.split} problems × {result.samples}"
    facts = [
        ("pass@1", f"{accuracy(result.metrics())}, {problems}"),
        ("length", f"{result.mean_length:.1f} tokens, {100 * result.truncated:.1f} % cut"),
        ("no answer", f"{100 * result.no_answer:.1f} %"),
    ]
    if result.dropped:
        facts.append(("dropped", f"{result.dropped} problems over the prompt limit"))
    for name, text in facts:
        console.print(Text(f"{name:<10} {text}"), soft_wrap=True)


def pretrain(recipe: str, overrides: Sequence[str], *, output: Path | None) -> None:
    """Train a small model from nothing, or heal one whose layers were taken out."""
    quiet_libraries()
    settings = load_pretrain_settings(recipe_path(recipe), overrides)
    folder = output or Path("runs") / settings.name
    if folder.exists():
        raise ValueError(f"{folder} is already there; name another folder with --output")
    console = Console()
    with answering(settings.name, console) as on_progress:
        result = run_pretraining(
            settings, output=folder, on_step=lambda done, total, _: on_progress(done, total)
        )
    loss = f", loss {result.losses[-1]:.4f} after {len(result.losses)} steps" * bool(result.losses)
    done = f"{result.folder}: {result.parameters:,} parameters{loss}"
    console.print(Text(done), soft_wrap=True)


def print_dry_run(recipe: str, overrides: Sequence[str]) -> None:
    """Print the resolved run, its token budget, schedule and memory."""
    quiet_libraries()
    print(dry_run_text(load_config(recipe_path(recipe), overrides)))


def doctor(recipe: str, overrides: Sequence[str]) -> bool:
    """Load both models, print every check, and say whether any failed."""
    quiet_libraries()
    config = load_config(recipe_path(recipe), overrides)
    checks = diagnose(config)
    console = Console()
    console.print(Text(f"student  {describe(config.student)}"), soft_wrap=True)
    teachers = config.teachers_by_name()
    for name, settings in teachers.items():
        console.print(Text(f"{role_of(name, teachers)}  {describe(settings)}"), soft_wrap=True)
    if config.reference is not None:
        console.print(Text(f"reference  {describe(config.reference)}"), soft_wrap=True)
    print_checks(checks, console)
    return any(check.status == "fail" for check in checks)


def diagnose(config: RunConfig) -> list[Check]:
    """Load both models of a run and examine them."""
    return examine(
        config,
        load_cast(config.student, config.teachers_by_name(), config.reference),
        prompts=config.task.prompts("train"),
    )


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """A table on a terminal, one line per check elsewhere."""
    if not console.is_terminal:
        for check in checks:
            console.print(Text(f"{check.status:<4}  {check.name}: {check.detail}"), soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(
            Text(check.status, style=STYLES[check.status]), check.name, Text(check.detail)
        )
    console.print(table)


def methods(*, markdown: bool) -> None:
    """Print every kind a recipe can name, with what it does, its source and its fields."""
    if markdown:
        print(methods_table.markdown(), end="")
        return
    console = Console()
    for title, union in (
        ("behaviours", AnyBehaviour),
        ("objectives", AnyObjective),
        ("tasks", AnyTask),
    ):
        console.print(Text(title, style="bold"))
        for kind, cls in kinds(union).items():
            _print_method(kind, cls, console)
    console.print("or, from a file of yours: kind: my_method.py:MyClass", highlight=False)
    console.print(
        "`tandem check my_method.py:MyClass` runs the contract tests on it", highlight=False
    )


def _print_method(kind: str, cls: type[Settings], console: Console) -> None:
    """One method: its sentence on the first line, what else is known of it below."""
    console.print(Text(f"  {kind:<22}{methods_table.summary(cls)}"), soft_wrap=True)
    details = [methods_table.described_fields(cls).replace("`", "")]
    if issubclass(cls, Behaviour | Objective):
        details = [f"{cls.equation}   [{cls.source}]", *details]
    for detail in details:
        if detail != "none":
            console.print(Text(f"  {'':<22}{detail}", style="dim"), soft_wrap=True)


def check(method: str, fields: Sequence[str]) -> bool:
    """Print the contract tests' findings on a method, and say whether any failed."""
    return not print_findings(findings_of(method, fields), Console())
