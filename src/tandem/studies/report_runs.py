"""Several runs in one report: what tells them apart, how they compare, and their trajectories."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import yaml

from tandem.studies import choosing
from tandem.studies.compare import tables_of
from tandem.studies.page import folded, pre, wide_table
from tandem.studies.report import RunFolder, evaluations, read_run
from tandem.studies.report_analyses import analyses
from tandem.studies.report_bands import Group, trajectories
from tandem.studies.report_samples import samples_section
from tandem.studies.report_tables import result_section

# What a run is called and where its chance begins: the same method all the same.
_OWN = ("name", "seed")


@dataclass(slots=True)
class Method:
    """Runs whose recipes differ in name and seed alone. runs: seed to run."""

    label: str = ""
    runs: dict[int, RunFolder] = field(default_factory=dict)

    def group(self, index: int) -> Group:
        """What trajectories are drawn of."""
        return Group(self.label, {seed: run.metrics for seed, run in self.runs.items()}, index)


def methods_of(runs: Sequence[RunFolder]) -> list[Method]:
    """The runs by method, in the order in which they are named.

    A run of the same recipe on the same seed as another one is a method of its own.
    """
    found: dict[tuple[str, int], Method] = {}
    for run in runs:
        recipe = json.dumps({k: v for k, v in run.config.items() if k not in _OWN}, sort_keys=True)
        seed, again = int(run.config.get("seed", 0)), 0
        while seed in found.setdefault((recipe, again), Method()).runs:
            again += 1
        found[recipe, again].runs[seed] = run
    methods = list(found.values())
    for method in methods:
        method.label = _label(method)
    labels = [method.label for method in methods]
    for method in methods:
        if labels.count(method.label) > 1:
            method.label = " + ".join(str(run.path) for run in method.runs.values())
    return methods


def runs_part(paths: Sequence[Path], *, target: Path) -> tuple[str, str]:
    """Title and body about several run folders. target: the folder that the page lies in."""
    runs = [read_run(path) for path in paths]
    methods = methods_of(runs)
    title = " and ".join(m.label for m in methods) if len(methods) < 4 else f"{len(runs)} runs"
    labels = {path: _run_label(m, seed) for m in methods for seed, path in _paths(m).items()}
    body = [
        f"<header><h1>{escape(title)}</h1><p>{_count(len(runs), 'run')} of "
        f"{_count(len(methods), 'method')}.</p></header>",
        "<h2>What was run</h2>",
        _overview(methods, target),
        f"<h2>Results</h2>{_tables(paths)}" if len(paths) > 1 else "",
        "<h2>Trajectories</h2>",
        trajectories([method.group(i) for i, method in enumerate(methods)]),
        analyses(paths, name=lambda folder: labels.get(folder, str(folder))),
        _samples(methods),
        "<h2>Details</h2>",
        *(_configuration(method) for method in methods),
        environments([run.environment for run in runs]),
    ]
    return title, "\n".join(body)


def environments(found: Sequence[Mapping[str, Any]]) -> str:
    """What the runs ran on, folded away."""
    rows = environment_rows(found)
    if not rows:
        return ""
    grid = wide_table("environment", ("", "in all runs"), rows)
    return folded("Environment", grid)


def environment_rows(
    found: Sequence[Mapping[str, Any]], *, without: Sequence[str] = ()
) -> list[list[str]]:
    """Values that all runs share, and how many different ones of the others. without: first parts
    of keys to leave out."""
    values: dict[str, dict[str, None]] = {}
    for one in found:
        for key, value in flat({k: v for k, v in one.items() if k not in without}):
            values.setdefault(key, {})[value] = None
    return [
        [key, " | ".join(own) if len(own) < 4 else f"{len(own)} different ones"]
        for key, own in values.items()
    ]


def flat(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Nested groups as dotted keys with their values as text."""
    for key, inner in choosing.flat(value).items():
        yield key, inner if isinstance(inner, str) else json.dumps(inner)


def link(report: Path, text: str, *, target: Path) -> str:
    """A link from a page in the folder `target` to a run's own report, where there is one."""
    if not report.is_file():
        return escape(text)
    address = quote(Path(os.path.relpath(report, target)).as_posix())
    return f'<a href="{address}">{escape(text)}</a>'


def _overview(methods: Sequence[Method], target: Path) -> str:
    """Each method, its seeds, and all that its recipe has otherwise than the others'."""
    recipes = [dict(flat(next(iter(method.runs.values())).config)) for method in methods]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe if key not in _OWN)
    differing = [key for key in keys if len({recipe.get(key) for recipe in recipes}) > 1]
    rows = [
        [
            method.label,
            ", ".join(map(str, method.runs)),
            _watched(method),
            *(recipe.get(key, "") for key in differing),
        ]
        for method, recipe in zip(methods, recipes, strict=True)
    ]
    header = ("method", "seeds", "pass@1 while training, %", *differing)
    links = ", ".join(
        link(run.path / "report.html", str(run.path), target=target)
        for method in methods
        for run in method.runs.values()
    )
    grid = wide_table("what was run", header, rows, words=differing)
    return f'{grid}<p class="notes">Folders: {links}.</p>'


def _watched(method: Method) -> str:
    """pass@1 at the first and last evaluation, over the seeds."""
    scores = [evaluations(run.metrics) for run in method.runs.values()]
    ends = [(rows[0]["eval/pass@1"], rows[-1]["eval/pass@1"]) for rows in scores if rows]
    if not ends:
        return "not evaluated"
    first, last = np.mean(ends, axis=0)
    return f"{100 * first:.1f} → {100 * last:.1f}"


def _tables(paths: Sequence[Path]) -> str:
    """The tables of `tandem compare`, or in its own words why there are none."""
    try:
        tables = tables_of(paths)
    except ValueError as error:
        return f'<p class="none">No table: {escape(str(error))}.</p>'
    return "".join(
        f"<section><h3>{escape(table.title)}</h3>{result_section(table)}</section>"
        for table in tables
    )


def _samples(methods: Sequence[Method]) -> str:
    """Samples of the first seed that all methods have, or else of each method's first run."""
    shared = set.intersection(*(set(method.runs) for method in methods))
    seed = min(shared) if shared else None
    picked = {m.label: m.runs[min(m.runs) if seed is None else seed].samples for m in methods}
    return samples_section(picked, seed=seed)


def _configuration(method: Method) -> str:
    config = yaml.safe_dump(
        next(iter(method.runs.values())).config, sort_keys=False, allow_unicode=True
    )
    return folded(f"Configuration of {method.label}", pre(config))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _paths(method: Method) -> dict[int, Path]:
    return {seed: run.path for seed, run in method.runs.items()}


def _run_label(method: Method, seed: int) -> str:
    return f"{method.label}, seed {seed}" if len(method.runs) > 1 else method.label


def _label(method: Method) -> str:
    """What the folders are called without their seeds; the folder around where nothing is left."""
    path = next(iter(method.runs.values())).path
    name = path.name
    if len(method.runs) > 1:
        name = re.sub(r"[-_. ]*(seed)?[-_. ]*[0-9]+$", "", name)
    return name or path.parent.name
