"""Ten steps of every legal cell on the embedded pair: finite, resumable, no crash."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from tandem.behaviours import Behaviour
from tandem.contract import examples
from tandem.contract.checks import refusal
from tandem.objectives import Objective
from tandem.run import train
from tandem.training.config import RunConfig, config_from_dict, load_config
from tandem.training.own_recipes import recipe_path

# One form of each objective per behaviour: the first that is legal there.
CELLS: list[tuple[Behaviour, Objective]] = [
    (behaviour, next(o for o in legal if o.kind == kind))
    for behaviour in examples.behaviours()
    for legal in [[o for o in examples.objectives() if refusal(o, behaviour) is None]]
    for kind in dict.fromkeys(o.kind for o in legal)
]
TINY = [
    "threads=1",
    "evaluation=null",
    "rollout.prompts_per_step=2",
    "rollout.samples_per_prompt=2",
    "rollout.max_new_tokens=12",
    "rollout.slots=4",
    "optimizer.warmup_steps=0",
    "training.steps=10",
    "training.save_every=5",
]


def recipe(behaviour: Behaviour, objective: Objective) -> RunConfig:
    base = load_config(recipe_path("arithmetic"), TINY).model_dump(mode="json")
    own: dict[str, Any] = {
        "name": "cell",
        "behaviour": behaviour.model_dump(mode="json"),
        "objective": objective.model_dump(mode="json"),
    }
    if objective.needs().reference:
        own["reference"] = base["student"]
    return config_from_dict(base | own)


def lines(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell", CELLS, ids=[f"{behaviour.kind}-{objective.kind}" for behaviour, objective in CELLS]
)
def test_ten_steps_are_finite_and_a_resumed_run_repeats_them(
    cell: tuple[Behaviour, Objective], tmp_path: Path
) -> None:
    config = recipe(*cell)
    result = train(config, runs=tmp_path)
    assert result.steps == 10
    whole = lines(result.folder)
    assert [row["step"] for row in whole] == list(range(1, 11))
    assert all(math.isfinite(value) for row in whole for value in row.values())
    # Whoever trains on nothing learns nothing. In a step of four responses none may be given.
    learnt = [row["train/grad_norm"] > 0 for row in whole]
    assert any(learnt) if config.behaviour.gives() else all(learnt)
    shutil.rmtree(result.folder / "checkpoints" / "step-000010")
    again = train(config, runs=tmp_path, resume=True)
    assert again.steps == 10
    for before, after in zip(whole, lines(again.folder), strict=True):
        assert before.keys() == after.keys()
        for name in before.keys() - {"rollout/tokens_per_second"}:
            assert after[name] == pytest.approx(before[name], rel=1e-6, abs=1e-9), name
