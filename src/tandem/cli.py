"""The command `tandem`. Heavy imports live inside the commands, so that `--help` is instant."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="tandem",
    help="Trust-region on-policy distillation: a student learns from a teacher on its own text.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Recipe = Annotated[str, typer.Argument(help="a recipe's path, or the name of one of tandem's own")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="section.key=value, applied over the recipe")
]

Problems = Annotated[int, typer.Option(min=2, help="problems to ask, from the first on")]
Samples = Annotated[int, typer.Option(min=1, help="responses to each problem")]
Split = Annotated[str, typer.Option(help="train, validation or test")]
Written = Annotated[
    Path | None, typer.Option(help="folder of the JSON file; runs/<name>-probe, or the run's own")
]


@app.command()
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the resolved run and its memory; train nothing")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on from the last checkpoint of the run")
    ] = False,
) -> None:
    """Train a student by a recipe."""
    with _user_errors():
        from tandem.front import commands

        if dry_run:
            commands.print_dry_run(recipe, overrides or [])
        else:
            commands.train(recipe, overrides or [], resume=resume)


@app.command("eval", short_help="Measure a model's pass@1 on a task or on benchmarks.")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="a hub id, a model's folder, or a run's, as runs/x@final, @best, @step120"
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="task.key=value, suite.key=value, model., evaluation. or limits."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="the kind of task; a run's folder brings its own")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="benchmarks instead of a task, as math500,aime24")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="folder of the suites' problems; the hub by default")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="folder of the suites' answers, which are kept and extended")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="answers per problem of a suite; as published by default")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the sampling")] = 0,
    engine: Annotated[
        str | None, typer.Option(help="native or vllm; a run's folder brings its own")
    ] = None,
) -> None:
    """Measure pass@1 of a model, with its interval: on a task, or on benchmarks (--suite)."""
    with _user_errors():
        _task_or_suite(task, suite, {"data-root": data_root, "output": output, "samples": samples})
        if suite is None:
            from tandem.front import commands

            commands.evaluate(model, task=task, overrides=overrides or [], seed=seed, engine=engine)
            return
        from tandem.front import suite_command

        suite_command.evaluate(
            model,
            suites=suite,
            data_root=data_root,
            output=output,
            samples=samples,
            seed=seed,
            engine=engine,
            overrides=overrides or [],
        )


@app.command(short_help="Run the missing cells of a study; write its tables.")
def study(
    path: Annotated[str, typer.Argument(help="a study's file, or the name of one of tandem's own")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, applied over the study's file")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print every cell and the time; run nothing")
    ] = False,
    jobs: Annotated[
        int, typer.Option(min=1, help="cells at once, each in a process (and on a GPU) of its own")
    ] = 1,
) -> None:
    """Run a study's cells, those that are missing, and write its tables."""
    with _user_errors():
        from tandem.front import studying

        studying.study(path, overrides or [], dry_run=dry_run, jobs=jobs)


@app.command(short_help="Compare runs: paired differences, corrected verdicts.")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders of runs and of studies")],
    baseline: Annotated[
        str | None,
        typer.Option(help="the run, or the study's row, that the others are compared with"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="a folder for the tables as Markdown, CSV and HTML")
    ] = None,
) -> None:
    """Compare runs, paired by seed or by problem, with intervals and corrected verdicts."""
    with _user_errors():
        from tandem.front import comparing

        comparing.compare(runs, baseline=baseline, output=output)


@app.command(short_help="Distil the embedded student twice and compare (minutes).")
def demo(
    overrides: Overrides = None,
    folder: Annotated[
        Path | None, typer.Option(help="where to write; a new runs/demo-N by default")
    ] = None,
) -> None:
    """Distil the embedded student twice, by vanilla OPD and by TRB, and compare (minutes)."""
    with _user_errors():
        from tandem.front.demo import run_demo

        run_demo(folder, overrides=overrides or [])


@app.command()
def doctor(recipe: Recipe, overrides: Overrides = None) -> None:
    """Look at what commonly ruins a run, before it starts."""
    with _user_errors():
        from tandem.front import commands

        failed = commands.doctor(recipe, overrides or [])
    if failed:
        raise typer.Exit(1)


@app.command()
def pretrain(
    recipe: Recipe,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="folder of the model; runs/<name> by default")
    ] = None,
) -> None:
    """Train a small model from nothing, as the embedded pair was."""
    with _user_errors():
        from tandem.front import commands

        commands.pretrain(recipe, overrides or [], output=output)


@app.command()
def methods(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print the tables of docs/methods.md")
    ] = False,
) -> None:
    """List the behaviours, objectives and tasks a recipe can name."""
    with _user_errors():
        from tandem.front import commands

        commands.methods(markdown=markdown)


@app.command(short_help="Run the contract tests on a method.")
def check(
    method: Annotated[str, typer.Argument(help="my_method.py:MyClass, or one of tandem's kinds")],
    fields: Annotated[
        list[str] | None, typer.Argument(help="name=value, for the method's configuration")
    ] = None,
) -> None:
    """Run the contract tests on a method: its laws, its declared gradient, its invariances."""
    with _user_errors():
        from tandem.front import commands

        failed = commands.check(method, fields or [])
    if failed:
        raise typer.Exit(1)


@app.command(short_help="How far does a prefix of each behaviour carry?")
def probe(
    recipe: Recipe,
    overrides: Overrides = None,
    lengths: Annotated[str | None, typer.Option(help="cuts, in tokens, as 2,4,8")] = None,
    behaviour: Annotated[list[str] | None, typer.Option(help="one more; repeatable")] = None,
    problems: Problems = 100,
    samples: Samples = 2,
    split: Split = "test",
    output: Written = None,
) -> None:
    """Cut each behaviour's responses short, let teacher and student go on, and compare."""
    with _user_errors():
        from tandem.front.probing import asked_of, print_probe

        asked = asked_of(lengths, behaviour or [], problems, samples, split)
        print_probe(recipe, overrides or [], asked, output=output)


@app.command(short_help="Look at a run token by token, beside its teacher.")
def diagnose(
    run: Annotated[Path, typer.Argument(help="a run's folder, as runs/demo-1/trb")],
    checkpoint: Annotated[str, typer.Option(help="final, best, stepN, or start")] = "final",
    problems: Problems = 100,
    samples: Samples = 4,
    split: Split = "test",
    output: Written = None,
) -> None:
    """Look at a run's student token by token, beside its teacher and the student before."""
    with _user_errors():
        from tandem.front.diagnosing import asked_of, print_diagnosis

        print_diagnosis(run, asked_of(checkpoint, problems, samples, split), output=output)


@app.command(short_help="Write one page about runs and studies, anew.")
def report(
    folders: Annotated[
        list[Path], typer.Argument(help="folders of runs and of studies, as runs/demo-1/trb")
    ],
    output: Annotated[
        Path | None, typer.Option(help="the page's file; report.html in a single folder by default")
    ] = None,
) -> None:
    """Write one page about what runs and studies left behind, anew from their folders."""
    with _user_errors():
        from tandem.studies.report_folders import write_reports

        typer.echo(write_reports(folders, output=output))


def _task_or_suite(task: str | None, suite: str | None, of_suites: Mapping[str, object]) -> None:
    """Raise ValueError where options of a task and of suites are mixed."""
    if task is not None and suite is not None:
        raise ValueError("--task and --suite are both given; evaluate one after the other")
    for name, value in of_suites.items():
        if suite is None and value is not None:
            raise ValueError(f"--{name} is of suites; name some with --suite")


@contextmanager
def _user_errors() -> Iterator[None]:
    """A mistake of the user's is one sentence and exit code 2; a mistake of ours, a traceback.

    Ctrl-C that nobody below has an answer to (while libraries load, above all) is a word and 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("tandem: stopped", err=True)
        raise typer.Exit(130) from None
    except ValueError as error:
        typer.echo(f"tandem: {error}", err=True)
        raise typer.Exit(2) from None


def main() -> None:
    """Entry point of the console script."""
    app()
    sys.exit(0)


if __name__ == "__main__":
    main()
