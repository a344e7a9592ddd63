"""`tandem compare`: run folders and study folders as tables of paired differences."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from tandem.evaluation.record import FOLDER, Record, read_record, step_records
from tandem.studies.rating import Rated, compared
from tandem.studies.report import read_run
from tandem.studies.study_folder import is_study, read_study, write_whole
from tandem.studies.study_tables import study_tables
from tandem.studies.tables import ResultTable, as_csv, as_html, as_markdown


def tables_of(paths: Sequence[Path], *, baseline: str | None = None) -> list[ResultTable]:
    """The tables of all these folders: of each study its own, of the runs together one more.

    Runs that differ in name and seed alone are one row. baseline: a run's folder, or a row of the
    studies; without it a study's own, and the first run.
    Raises ValueError where a folder is neither, or where there is nothing to compare.
    """
    studies = [path for path in paths if is_study(path)]
    runs = [path for path in paths if path not in studies]
    found: list[ResultTable] = []
    for path in studies:
        found += study_tables(read_study(path), baseline=None if runs else baseline)
    if runs:
        found += _run_tables(runs, baseline)
    return found


def write_tables(tables: Sequence[ResultTable], folder: Path, *, title: str) -> list[Path]:
    """Write comparison.md, .csv and .html into `folder`, and return where they lie."""
    texts = {
        "comparison.md": as_markdown(tables),
        "comparison.csv": as_csv(tables),
        "comparison.html": as_html(tables, title=title),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def _run_tables(paths: Sequence[Path], baseline: str | None) -> list[ResultTable]:
    groups = _groups(paths)
    base = next(iter(groups))
    if baseline is not None:
        wanted = Path(baseline).resolve()
        named = [k for k, runs in groups.items() if wanted in [r.resolve() for r in runs.values()]]
        if not named:
            raise ValueError(
                f"the baseline {baseline} is none of the runs; name one of "
                f"{', '.join(map(str, paths))}"
            )
        base = named[0]
    if len(groups) < 2:
        raise ValueError(
            f"{', '.join(map(str, paths))} are one method on {len(paths)} seeds: name runs of "
            "another one too"
        )
    found: list[ResultTable] = []
    for name, title in _common_names(paths):
        rows = [
            Rated(label, {seed: _record(run, name) for seed, run in runs.items()})
            for label, runs in groups.items()
        ]
        found.append(compared(title, rows, baseline=base))
    return found


def _groups(paths: Sequence[Path]) -> dict[str, dict[int, Path]]:
    """Label to seed to run folder, of runs whose recipes differ in nothing but name and seed."""
    groups: dict[str, dict[int, Path]] = {}
    for path in paths:
        config = dict(read_run(path).config)
        config.pop("name", None)
        seed = int(config.pop("seed", 0))
        runs = groups.setdefault(json.dumps(config, sort_keys=True), {})
        if seed in runs:
            raise ValueError(
                f"{path} and {runs[seed]} are the same recipe on the same seed: name one of them"
            )
        runs[seed] = path
    labels = [_label(list(runs.values())) for runs in groups.values()]
    if len(set(labels)) < len(labels):
        labels = [str(next(iter(runs.values()))) for runs in groups.values()]
    return dict(zip(labels, groups.values(), strict=True))


def _label(runs: Sequence[Path]) -> str:
    """What folders are called without their seeds; the folder around where nothing is left."""
    name = runs[0].name
    if len(runs) > 1:
        name = re.sub(r"[-_. ]*(seed)?[-_. ]*[0-9]+$", "", name)
    return name or runs[0].parent.name


def _common_names(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """Name and title of the evaluations that all runs have; without any, of the last watched."""
    steps = [[name for _, name in step_records(path)] for path in paths]
    judged = [
        {file.stem for file in (path / FOLDER).glob("*.json")} - set(watched)
        for path, watched in zip(paths, steps, strict=True)
    ]
    for path, watched, others in zip(paths, steps, judged, strict=True):
        if not watched and not others:
            raise ValueError(
                f"{path} holds no evaluation by problem: train it with an evaluation section"
            )
    shared = sorted(set.intersection(*judged))
    if shared:
        return [(name, name.replace("-", ", ")) for name in shared]
    last = {watched[-1] if watched else "none" for watched in steps}
    if len(last) > 1 or "none" in last:
        raise ValueError(
            f"the runs share no evaluation, and the last ones that they were watched by differ "
            f"({', '.join(sorted(last))}): watch them at the same last step, or compare them in a "
            "study, which judges final models alike"
        )
    return [(last.pop(), "as watched, after the last step")]


def _record(run: Path, name: str) -> Record:
    record = read_record(run, name)
    assert record is not None, "only evaluations that all runs have are named"
    return record
