"""`tandem study`: every cell of a study file, one after another or on several processes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tandem.evaluation.record import read_record
from tandem.front.cells import (
    CellWork,
    ModelWork,
    ReferenceWork,
    do_cell,
    judge_reference,
    make_model,
)
from tandem.front.study_board import Board
from tandem.front.study_plan import plan_lines
from tandem.models.settings import ModelSettings
from tandem.studies.choosing import Score, choose, first_settings, write_choices
from tandem.studies.compare import write_tables
from tandem.studies.grid import (
    Cell,
    Point,
    Study,
    distinct,
    model_folder,
    models_to_make,
    open_study,
    reporting_cells,
    tuning_cells,
)
from tandem.studies.report_folders import write_reports
from tandem.studies.results_page import write_results_page
from tandem.studies.runner import Job, run_jobs
from tandem.studies.study_folder import (
    FINAL,
    StudyFolder,
    begin,
    cell_end,
    last_validation,
    read_study,
    write_plan,
)
from tandem.studies.study_tables import study_tables
from tandem.studies.tables import as_text
from tandem.training.claim import claim
from tandem.training.config import RunConfig, plain_data
from tandem.training.own_recipes import recipe_path
from tandem.training.signals import terminated_like_ctrl_c

RESULTS = "results"
_PACKAGE = Path(__file__).resolve().parents[1]


def study(
    path: str, overrides: Sequence[str], *, dry_run: bool, jobs: int, console: Console | None = None
) -> None:
    """Run what is missing of a study, then write its tables; or print what would be run.

    Raises ValueError, in one sentence, for whatever the user can mend.
    """
    console = console or Console()
    plan = open_study(study_path(path), overrides, find=recipe_path)
    if dry_run:
        for line in plan_lines(plan, jobs=jobs):
            console.print(Text(line), soft_wrap=True)
        return
    begin(plan)
    try:
        with claim(plan.folder, first=True), terminated_like_ctrl_c():
            _run(plan, jobs, console, _command(path, overrides, jobs))
    except KeyboardInterrupt:
        console.print(
            Text(f"stopped; the same command goes on from here: {plan.folder}"), soft_wrap=True
        )


def own_studies() -> dict[str, Path]:
    """The studies that come with tandem, by name; in a checkout they lie beside src/."""
    inside = _PACKAGE / "study_files"
    folder = inside if inside.is_dir() else _PACKAGE.parents[1] / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def study_path(name: str) -> Path:
    """The file that `name` means: a path, or the name of a study that comes with tandem.

    Raises ValueError when there is neither, with the nearest name.
    """
    if Path(name).is_file():
        return Path(name)
    own = own_studies()
    bare = name.removeprefix("studies/").removesuffix(".yaml")
    if bare in own:
        return own[bare]
    near = get_close_matches(bare, own, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"ours are {', '.join(own)}"
    raise ValueError(f"no study {name!r}: it is neither a file nor one of tandem's own; {hint}")


def write_results(study: StudyFolder, *, command: str) -> list[str]:
    """Write a study's tables and its page into its results/; return them as lines for a terminal.

    command: what made them, as the page says it.
    """
    tables = study_tables(study)
    folder = study.path / RESULTS
    paths = write_tables(tables, folder, title=study.file.name)
    paths.append(write_results_page(study, tables, folder, command=command))
    lines = [line for table in tables for line in ["", *as_text(table)]]
    return [*lines, "", f"{len(tables)} tables: {', '.join(map(str, paths))}"]


def _run(study: Study, jobs: int, console: Console, command: str) -> None:
    tuning = tuning_cells(study)
    write_plan(study, tuning)
    board = Board(study, console, jobs=jobs)
    environments = _environments(jobs, tuning or reporting_cells(study, first_settings(study.file)))
    with board:
        # One after another: a model may be made from another one.
        run_jobs(_models(study), environments=environments[:1], hear=board)
        run_jobs(_cell_jobs(study, tuning), environments=environments, hear=board)
        choices = choose(study.file, _scores(study, tuning))
        write_choices(study.folder, choices)
        board.chose(choices)
        reporting = reporting_cells(study, {row: c.chosen for row, c in choices.items()})
        write_plan(study, [*tuning, *reporting])
        todo = [*_references(study, reporting), *_cell_jobs(study, reporting)]
        run_jobs(todo, environments=environments, hear=board)
    for line in write_results(read_study(study.folder), command=command):
        console.print(Text(line), soft_wrap=True)
    console.print(Text(str(write_reports([study.folder]))), soft_wrap=True)


def _command(path: str, overrides: Sequence[str], jobs: int) -> str:
    """The command line that this was."""
    return shlex.join(["tandem", "study", path, *overrides, "--jobs", str(jobs)])


def _models(study: Study) -> list[Job]:
    """The models that are still to be made."""
    return [
        Job(f"model {name}", make_model, ModelWork(settings, str(model_folder(study, name))))
        for name, settings in models_to_make(study).items()
        if not model_folder(study, name).is_dir()
    ]


def _cell_jobs(study: Study, cells: Sequence[Cell]) -> list[Job]:
    """The cells that are not done, each run once however many cells it serves."""
    folders = distinct(cells)
    jobs: list[Job] = []
    for cell in cells:
        name = cell.config.name
        if folders[name] != name or cell_end(study.runs / name) is not None:
            continue
        judging = study.file.judging if cell.phase == "reporting" else None
        work = CellWork(plain_data(cell.config), str(study.runs), judging)
        jobs.append(Job(name.partition("/")[2], do_cell, work))
    return jobs


def _references(study: Study, cells: Sequence[Cell]) -> list[Job]:
    """The teacher and the untrained student of each point, judged on the first seed."""
    jobs: list[Job] = []
    seen: set[Point] = set()
    for cell in cells:
        if cell.point in seen:
            continue
        seen.add(cell.point)
        for role, model in _untrained(cell.config).items():
            folder = study.folder / "references" / cell.point.slug / role
            if read_record(folder, FINAL) is None:
                config = plain_data(cell.config)
                work = ReferenceWork(model, config, study.file.judging, str(folder))
                jobs.append(Job(f"{role} at {cell.point.slug}", judge_reference, work))
    return jobs


def _untrained(config: RunConfig) -> dict[str, ModelSettings]:
    """Who is judged beside the runs: the student before training, and a teacher of everything."""
    found = {"student": config.student}
    return found if config.teacher is None else found | {"teacher": config.teacher}


def _scores(study: Study, cells: Sequence[Cell]) -> Score:
    """Validation pass@1 at the end of each tuning run; 0 for one that diverged."""
    folders = {(c.row, c.setting, c.seed): study.runs / c.config.name for c in cells}

    def score(row: str, setting: int, seed: int) -> float:
        folder = folders[row, setting, seed]
        end, last = cell_end(folder), last_validation(folder)
        assert end is not None, "tuning is over"
        if end.diverged:
            return 0.0
        assert last is not None and last.split == "validation"
        return last.metrics["eval/pass@1"]

    return score


def _environments(jobs: int, cells: Sequence[Cell]) -> list[dict[str, str]]:
    """What each process has set: its GPU, round robin, or its share of the CPU's threads."""
    if any(cell.config.device != "cpu" for cell in cells):
        gpus = _gpus()
        if gpus:
            return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(jobs)]
    if jobs == 1:
        return [{}]
    # Where a recipe names `threads`, that is what its runs have.
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return [{"OMP_NUM_THREADS": str(threads)} for _ in range(jobs)]


def _gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
