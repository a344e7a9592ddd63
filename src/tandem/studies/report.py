"""report.html of a run: one self-contained page, a pure function of the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

from tandem.studies.page import facts, figure, folded, page, pre, table
from tandem.studies.plots import RUN_PLOTS, Row, available
from tandem.studies.report_analyses import analyses
from tandem.studies.report_browser import with_script

SAMPLES_SHOWN = 12
"""Samples of the last step that a report shows."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """What a run left behind, read once."""

    path: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    environment: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.config.get("name", self.path.name))


def read_run(path: Path) -> RunFolder:
    """Read a run folder. Raises ValueError where `path` is none."""
    if not (path / "config.yaml").is_file():
        raise ValueError(f"{path} is not a run folder: {_no_config(path)}")
    environment = path / "environment.json"
    return RunFolder(
        path=path,
        config=yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")),
        metrics=json_lines(path / "metrics.jsonl"),
        samples=json_lines(path / "samples.jsonl"),
        environment=json.loads(environment.read_bytes()) if environment.is_file() else {},
    )


def _no_config(path: Path) -> str:
    if not path.is_dir():
        return "there is no such folder; give a run's, such as runs/arithmetic"
    inside = sorted(found.parent for found in path.glob("*/config.yaml"))
    if not inside:
        return "it holds no config.yaml; give a run's, such as runs/arithmetic"
    return f"it holds several runs; name one: {', '.join(map(str, inside))}"


def write_report(path: Path) -> Path:
    """Write `path`/report.html from the run folder `path`, and return where it lies."""
    run = read_run(path)
    target = path / "report.html"
    target.write_text(run_page(run), encoding="utf-8")
    return target


def run_page(run: RunFolder) -> str:
    """The report of one run as HTML text."""
    body = [
        _headline(run),
        _pictures({"run": run.metrics}),
        analyses([run.path], name=lambda folder: _within(folder, run)),
        _samples(run),
        _details(run),
    ]
    return page(title=run.name, body=with_script("\n".join(body)))


def comparison_page(
    runs: Mapping[str, RunFolder],
    *,
    title: str,
    header: Sequence[str],
    rows: Sequence[Row],
    notes: Sequence[str],
) -> str:
    """Several runs under one set of plots, above them a table with columns `header`.

    `rows`: one mapping per line of the table, its keys those of `header`. `notes`: how the numbers
    were made and what they cannot say, a paragraph each, below the table.
    """
    cells = [[str(row[name]) for name in header] for row in rows]
    own = [run.path.name for run in runs.values()]
    links = ", ".join(f'<a href="{escape(name)}/report.html">{escape(name)}</a>' for name in own)
    body = [
        f"<header><h1>{escape(title)}</h1></header>",
        table(header, cells),
        *(f"<p>{escape(note)}</p>" for note in notes),
        f"<p>One report per run: {links}.</p>",
        _pictures({label: run.metrics for label, run in runs.items()}),
    ]
    return page(title=title, body="\n".join(body))


def evaluations(metrics: Sequence[Row]) -> list[Row]:
    """The rows that hold an evaluation, in order."""
    return [row for row in metrics if row.get("eval/pass@1") is not None]


def _headline(run: RunFolder) -> str:
    config = run.config
    sentence = (
        f"{_model(config, 'student')} learns from {_model(config, 'teacher')} on "
        f"{_kind(config, 'task')}: behaviour {_kind(config, 'behaviour')}, "
        f"objective {_kind(config, 'objective')}."
    )
    steps = max((row["step"] for row in run.metrics), default=0)
    shown: list[tuple[str, str]] = []
    scores = evaluations(run.metrics)
    if scores:
        shown.append((f"pass@1 at step {scores[0]['step']}", _interval(scores[0])))
    if len(scores) > 1:
        shown.append((f"pass@1 at step {scores[-1]['step']}", _interval(scores[-1])))
    divergences = [row["train/reverse_kl"] for row in run.metrics if "train/reverse_kl" in row]
    if divergences:
        ends = f"{divergences[0]:.3f} → {divergences[-1]:.3f}"
        shown.append(("reverse KL, nats per token", ends))
    shown.append(("optimiser steps", str(steps)))
    return f"<header><h1>{escape(run.name)}</h1><p>{escape(sentence)}</p></header>\n{facts(shown)}"


def _interval(row: Row) -> str:
    text = f"{100 * row['eval/pass@1']:.1f} %"
    if row.get("eval/pass@1_low") is None:
        return text
    return f"{text} [{100 * row['eval/pass@1_low']:.1f}, {100 * row['eval/pass@1_high']:.1f}]"


def _within(folder: Path, run: RunFolder) -> str:
    return run.name if folder == run.path else str(folder.relative_to(run.path))


def _model(config: Row, role: str) -> str:
    several = config.get(f"{role}s")
    if several:
        return ", ".join(f"{one['path']} ({name})" for name, one in several.items())
    return str(config.get(role, {}).get("path", role))


def _kind(config: Row, part: str) -> str:
    return str(config.get(part, {}).get("kind", "unknown"))


def _pictures(runs: Mapping[str, Sequence[Row]]) -> str:
    drawn = [figure(plot, runs) for plot in RUN_PLOTS if available(plot, runs)]
    if not drawn:
        return "<p>No metrics were logged.</p>"
    return f'<section class="plots">{"".join(drawn)}</section>'


def _samples(run: RunFolder) -> str:
    if not run.samples:
        return ""
    last = max(sample.get("step", 0) for sample in run.samples)
    shown = [s for s in run.samples if s.get("step", 0) == last][:SAMPLES_SHOWN]
    items = "".join(_sample(sample) for sample in shown)
    return f"<h2>Samples of step {last}</h2>\n<section>{items}</section>"


def _sample(sample: Row) -> str:
    skipped = ("prompt", "completion", "step")
    marks = [f"{k}: {_plain(v)}" for k, v in sample.items() if k not in skipped]
    return (
        f'<article class="sample">{pre(str(sample.get("prompt", "")), kind="prompt")}'
        f"{pre(str(sample.get('completion', '')))}"
        f"<p>{escape(' · '.join(marks))}</p></article>"
    )


def _plain(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _details(run: RunFolder) -> str:
    config = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    environment = json.dumps(run.environment, indent=2, ensure_ascii=False)
    return folded("Configuration", pre(config)) + "\n" + folded("Environment", pre(environment))


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; none where there is no such file."""
    if not path.is_file():
        return []
    # A run that was killed may have left half a last line; and only \n ends a line of JSON.
    *whole, _ = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in whole if line.strip()]
