"""Folders as studies, probes and diagnoses leave them, with made-up numbers, by their own writers.

Four rows on five seeds, one of which diverged, two axes' values, a probe and a diagnosis.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import yaml
from tests.studies.study_cases import small_study

from tandem.evaluation.record import Record, step_name, write_record
from tandem.studies.choosing import choose, write_choices
from tandem.studies.grid import Cell, Study, distinct, points, reporting_cells, tuning_cells
from tandem.studies.study_folder import (
    FINAL,
    SELECTED,
    CellEnd,
    begin,
    write_cell_end,
    write_plan,
)
from tandem.training.config import plain_data

STEPS = 40
SEEDS = (0, 1, 2, 3, 4)
ROWS = {
    "opd": ("vanilla OPD", {"behaviour": "student"}, {"optimizer.lr": [5e-4, 1e-3]}),
    "skd": (
        "SKD (speculative knowledge distillation, top-k = 4 of 15 ids)",
        {"behaviour": {"kind": "speculative_kd", "top_k": 2, "teacher_temperature": 0.2}},
        {"optimizer.lr": [5e-4, 1e-3], "behaviour.top_k": [1, 2, 4]},
    ),
    "fixed": (
        "fixed ε",
        {"behaviour": {"kind": "fixed_budget_blend", "budget": 0.03}},
        {"optimizer.lr": [5e-4, 1e-3], "behaviour.budget": [0.01, 0.03, 0.1]},
    ),
    "trb": (
        "TRB",
        {"behaviour.warmup_steps": 10},
        {"optimizer.lr": [5e-4, 1e-3], "behaviour.budget": [0.01, 0.03, 0.1]},
    ),
}
# What each row ends at, and how fast.
_ENDS = {"opd": (0.62, 14.0), "skd": (0.45, 18.0), "fixed": (0.68, 12.0), "trb": (0.78, 9.0)}


def make_study(
    folder: Path, *, seeds: tuple[int, ...] = SEEDS, full: bool = True, only: int | None = None
) -> Path:
    """A finished study in `folder`/runs. full: with an axis, and all metrics that runs log; else
    without, and two of them. only: so many of its reporting cells are done, from the first."""

    def change(data: dict[str, Any]) -> None:
        data["name"] = "blending"
        data["set"]["training.steps"] = STEPS
        data["set"]["evaluation"] = {"every": 10, "problems": 4, "samples": 1}
        data["rows"] = {
            row: {"title": title, "set": own, "sweep": sweep}
            for row, (title, own, sweep) in ROWS.items()
        }
        data["hypotheses"] = [
            {"text": "blending helps", "row": "trb", "than": "opd"},
            {"text": "it is the annealing", "row": "trb", "than": "fixed", "model": "selected"},
            {"text": "SKD is better than nothing", "row": "skd", "than": "opd"},
        ]
        data["seeds"] = {"tuning": [7, 8], "reporting": list(seeds)}
        data["judging"] = {"problems": 50, "samples": 2}
        if full:
            data["axes"] = {
                "chains": {
                    "title": "chains of",
                    "main": "3 numbers",
                    "rows": ["opd", "trb"],
                    "values": {"2": {"task.operands": 2}, "4": {"task.operands": 4}},
                }
            }

    study = small_study(folder, change)
    begin(study)
    tuning = tuning_cells(study)
    for cell in tuning:
        _cell(study, cell, full=full)
    scores = {(c.row, c.setting, c.seed): _validation(c) for c in tuning}
    choices = choose(study.file, lambda row, setting, seed: scores[row, setting, seed])
    write_choices(study.folder, choices)
    reporting = reporting_cells(study, {row: one.chosen for row, one in choices.items()})
    write_plan(study, [*tuning, *reporting])
    runs = distinct([*tuning, *reporting])
    for cell in reporting[:only]:
        if runs[cell.config.name] == cell.config.name:
            _cell(study, cell, full=full)
    for point in points(study.file):
        for role, share in (("student", 0.04), ("teacher", 0.96)):
            where = study.folder / "references" / point.slug / role
            write_record(where, FINAL, _record(random.Random(role), share, "test", None))
    return study.folder


def make_probe(folder: Path) -> Path:
    """A probe.json in `folder`."""
    lengths, rows = [0, 8, 16, 24, 32], []
    for place, name in enumerate(("student", "trust_region_blend ε=0.03", "teacher")):
        for who in ("teacher", "student"):
            for length in lengths:
                mean = 0.9 - (0.02 - 0.008 * place) * length * (1.5 if who == "student" else 1)
                low, high = max(0.0, mean - 0.07), min(1.0, mean + 0.06)
                row = {"behaviour": name, "length": length, "continued_by": who}
                rows.append(row | {"mean": mean, "low": low, "high": high, "finished": length / 64})
    probe = {
        "schema": 1,
        "model": "embedded:student",
        "teacher": "embedded:teacher",
        "task": "arithmetic",
        "seed": 0,
        "lengths": lengths,
        "behaviours": ["student", "trust_region_blend ε=0.03", "teacher"],
        "problems": 64,
        "samples": 4,
        "rows": rows,
    }
    (folder / "probe.json").write_text(json.dumps(probe))
    return folder / "probe.json"


def make_diagnosis(
    folder: Path, *, samples: int = 12, text: str = "12+34-5=", value: str = "kl"
) -> Path:
    """A diagnose.json in `folder`, with `samples` prompts that three models answered."""
    draw = random.Random(f"diagnosis {folder.name}")
    curve = [
        {"x": x, "mean": 0.9 - x / 50, "low": 0.85 - x / 50, "high": None if x == 30 else 0.95}
        for x in range(0, 40, 2)
    ]
    diagnosis = {
        "schema": 1,
        "run": str(folder.name),
        "checkpoint": "final",
        "problems": 64,
        "scalars": {
            "teacher_entropy": {"mean": 0.213, "low": 0.19, "high": 0.24},
            "teacher_entropy_before": {"mean": 0.6, "low": 0.5, "high": 0.7},
            "auroc": {"mean": 0.81, "low": 0.77, "high": 0.85},
            "outlier_share": {"mean": 0.031, "low": None, "high": None},
        },
        "curves": {
            "kl_by_position": {
                "unit": "nats per token",
                "x": "position in tokens",
                "points": curve,
            },
            "train/grad_norm": {"unit": "norm", "x": "optimiser step", "points": curve},
            "kl_by_position, median": {
                "unit": "nats per token",
                "x": "position in tokens",
                "points": [point | {"mean": point["mean"] / 2} for point in curve],
            },
        },
        "histograms": {
            "exponent": {
                "unit": "exponent",
                "edges": [i / 20 for i in range(21)],
                "counts": [draw.randrange(200) + 400 // (i + 1) for i in range(20)],
            }
        },
        "samples": [
            _sample(draw, f"{text} #{number}", who, value)
            for number in range(samples)
            for who in ("student before", "student after", "teacher")
        ],
    }
    path = folder / "diagnose.json"
    path.write_text(json.dumps(diagnosis))
    return path


def _sample(draw: random.Random, prompt: str, who: str, value: str) -> dict[str, Any]:
    tokens = ["46", "-", "5", "=", "<", "41", ">", "\n", "so", " the", " answer", " is 41"]
    right = draw.random() < {"student before": 0.2, "student after": 0.7, "teacher": 0.95}[who]
    tokens = tokens if right else [*tokens[:-1], " is</script> “7” & 'more'"]
    return {
        "prompt": prompt,
        "who": who,
        "text": "".join(tokens),
        "tokens": tokens,
        "values": [draw.expovariate(3.0) ** 2 for _ in tokens],
        "value": value,
        "correct": right,
    }


def _cell(study: Study, cell: Cell, *, full: bool) -> None:
    """A run's folder as `tandem study` leaves it."""
    folder = study.runs / cell.config.name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(plain_data(cell.config)))
    (folder / "environment.json").write_text(
        json.dumps({"versions": {"torch": "2.13.0"}, "cpu_count": 2, "seed": cell.seed})
    )
    diverges = (cell.phase, cell.row, cell.seed) == ("reporting", "skd", 3)
    rows = _rows(cell)[: 15 if diverges else None]
    if not full:
        few = ("step", "eval/pass@1", "train/loss")
        rows = [{key: row[key] for key in few if key in row} for row in rows]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "samples.jsonl").write_text(
        "".join(json.dumps(sample) + "\n" for sample in _samples(cell, len(rows)))
    )
    (folder / "report.html").write_text("its own report\n")
    if diverges:
        said = "the loss of step 15 is nan"
        write_cell_end(folder, CellEnd(seconds=9.0, whole=True, diverged=said))
        return
    draw = random.Random(cell.config.name)
    for row in rows:
        if "eval/pass@1" in row:
            record = _record(draw, row["eval/pass@1"], "validation", row["step"])
            write_record(folder, step_name(row["step"]), record)
    if cell.phase == "reporting":
        end = rows[-1]["eval/pass@1"]
        write_record(folder, FINAL, _record(draw, end, "test", STEPS))
        write_record(folder, SELECTED, _record(draw, min(1.0, end + 0.02), "test", STEPS - 10))
    write_cell_end(folder, CellEnd(seconds=20.0 + cell.seed, whole=True))


def _rows(cell: Cell) -> list[dict[str, Any]]:
    draw = random.Random(cell.config.name)
    end, pace = _ENDS[cell.row]
    end *= {"2": 1.1, "4": 0.7}.get(cell.point.value, 1.0)
    end += draw.gauss(0, 0.03) - 0.04 * cell.setting % 0.17
    rows: list[dict[str, Any]] = []
    for step in range(STEPS + 1):
        decay = math.exp(-step / pace)
        row: dict[str, Any] = {"step": step}
        if step % 10 == 0:
            score = min(1.0, max(0.0, 0.03 + end * (1 - decay)))
            row |= {"eval/pass@1": score, "eval/length": 30.0, "eval/truncated": 0.1 * decay}
        if step:
            noise = draw.gauss(1, 0.1)
            row |= {
                "train/loss": 1.5 * decay * noise + 0.02,
                "train/reverse_kl": 1.4 * decay * noise + 0.02,
                "train/grad_norm": 2 * decay * noise + 0.1,
                "rollout/length": 45 - step / 4 * noise,
                "rollout/truncated": 0.2 * decay,
                "rollout/teacher_entropy": 0.6 * decay * noise + 0.2,
                "time/step": 0.4 * noise,
            }
            if cell.row in ("trb", "fixed"):
                budget = 0.05 if cell.row == "fixed" else max(0.0, 0.05 * (1 - step / 10))
                row |= {"rollout/exponent": budget * 9, "rollout/kl_spent": budget * 0.93 * noise}
                row["rollout/budget"] = budget
        rows.append(row)
    return rows


def _samples(cell: Cell, steps: int) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "id": 100 * step + number,
            "prompt": f"{step}+{number}-{cell.seed}=",
            "completion": f"{step + number}-{cell.seed}=<{step + number - cell.seed}>",
            "ended": "eos",
            "tokens": 9,
            "exponent": 0.25,
        }
        for step in range(1, steps)
        for number in range(4)
    ]


def _validation(cell: Cell) -> float:
    return _rows(cell)[-1]["eval/pass@1"]


def _record(draw: random.Random, share: float, split: str, step: int | None) -> Record:
    scores = {f"p{i}": (draw.random() < share) * 0.5 + (draw.random() < share) * 0.5
              for i in range(50)}  # fmt: skip
    return Record(split, 2, step, {"eval/pass@1": sum(scores.values()) / 50}, scores)
