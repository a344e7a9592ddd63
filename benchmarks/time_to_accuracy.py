"""What blended rollouts cost a run, and what they save it: the embedded pair by both methods.

    python benchmarks/time_to_accuracy.py [--seeds 3] [--block 4] [name=value ...]

Runs recipes/arithmetic.yaml as vanilla OPD, as TRB with blocks, and as TRB with one token per
round, one after the other for each seed, and prints: seconds per step over the whole run and within
the warm-up (the steps in which TRB reads the teacher), with the share of rollouts and of updates;
the ratio to vanilla OPD of the same seed; and the time spent on steps until validation accuracy
first reaches a level, linear between evaluations. Evaluations, loading and saving are left out of
all times. Medians over seeds, least and greatest in brackets.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tandem import run
from tandem.training.config import load_config
from tandem.training.own_recipes import recipe_path

LEVELS = (0.4, 0.6, 0.8)
WARMUP = 50


@dataclass(frozen=True, slots=True)
class Course:
    """One run: seconds of each step, of its rollout and of its update, and accuracy by step."""

    step: list[float]
    rollout: list[float]
    train: list[float]
    accuracy: dict[int, float]

    def per_step(self, *, first: int, last: int) -> float:
        return statistics.fmean(self.step[first:last])

    def share(self, part: Sequence[float]) -> float:
        return sum(part) / sum(self.step)

    def until(self, level: float) -> float | None:
        """Seconds of steps until accuracy first reaches a level; None where it never does."""
        elapsed = [0.0]
        for seconds in self.step:
            elapsed.append(elapsed[-1] + seconds)
        points = [(elapsed[step], value) for step, value in sorted(self.accuracy.items())]
        for (start, low), (end, high) in pairwise(points):
            if low < level <= high:
                return start + (end - start) * (level - low) / (high - low)
        return None


def course(seed: int, own: Sequence[str], folder: Path) -> Course:
    config = load_config(recipe_path("arithmetic"), [*own, f"seed={seed}", "name=run"])
    end = run.train(config, runs=folder)
    rows = [json.loads(line) for line in (end.folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "time/step" in row]
    return Course(
        step=[row["time/step"] for row in steps],
        rollout=[row["time/rollout"] for row in steps],
        train=[row["time/train"] for row in steps],
        accuracy={row["step"]: row["eval/pass@1"] for row in rows if "eval/pass@1" in row},
    )


def spread(values: Sequence[float | None], form: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "never"
    text = f"{form(statistics.median(known))} [{form(min(known))}, {form(max(known))}]"
    missing = len(values) - len(known)
    return f"{text}, {missing} never" if missing else text


def main() -> None:
    parser = argparse.ArgumentParser(description="Time per step and time to accuracy.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--block", default="4")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    methods = {
        "vanilla OPD": ["behaviour.kind=student"],
        f"TRB, block {arguments.block}": [f"rollout.block={arguments.block}"],
        "TRB, block 1": ["rollout.block=1"],
    }
    found: dict[str, list[Course]] = {name: [] for name in methods}
    for seed in range(arguments.seeds):
        for name, own in methods.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(course(seed, [*own, *arguments.overrides], Path(folder)))
    report(found)


def report(found: dict[str, list[Course]]) -> None:
    plain = next(iter(found.values()))
    steps = len(plain[0].step)

    def ms(value: float) -> str:
        return f"{1e3 * value:.0f}"

    def share(value: float) -> str:
        return f"{value:.2f}"

    def seconds(value: float) -> str:
        return f"{value:.1f}"

    print(
        "| method | ms per step | against vanilla | in the warm-up, ms | against vanilla "
        "| share of rollouts | of updates |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, runs in found.items():
        cells = [name]
        for last in (steps, WARMUP):
            own = [one.per_step(first=0, last=last) for one in runs]
            base = [one.per_step(first=0, last=last) for one in plain]
            ratios = [a / b for a, b in zip(own, base, strict=True)]
            cells += [spread(own, ms), spread(ratios, share)]
        cells.append(spread([one.share(one.rollout) for one in runs], share))
        cells.append(spread([one.share(one.train) for one in runs], share))
        print("| " + " | ".join(cells) + " |")
    print("\n| method | " + " | ".join(f"s to {100 * level:.0f} %" for level in LEVELS) + " |")
    print("|---|" + "---|" * len(LEVELS))
    for name, runs in found.items():
        cells = [spread([one.until(level) for one in runs], seconds) for level in LEVELS]
        print("| " + " | ".join([name, *cells]) + " |")


if __name__ == "__main__":
    main()
