"""Runs whose responses open with given tokens, up to the SFT warm-up that is two phases."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file
from training_tiny import Sums, tiny_recipe

from tandem import run as api
from tandem.behaviours import Student
from tandem.objectives import ReverseKL
from tandem.objectives.base import Plan, StepTokens
from tandem.rollout import Engine
from tandem.training.config import config_from_dict
from tandem.training.parallel import open_world
from tandem.types import Author, Clock, Request, Sampling, SignalSpec
from tandem.wiring import assemble

PREFIX = {"kind": "teacher_prefix", "prefix": "max"}
FULL = {"kind": "reverse_kl", "support": "full"}


@pytest.fixture
def short(pair: Path) -> dict[str, Any]:
    return tiny_recipe(pair) | {
        "optimizer": {"lr": 0.01},
        "training": {"steps": 4, "save_every": 1, "keep_last": 9, "tokens_per_micro_batch": 200},
        "evaluation": None,
    }


def train(recipe: dict[str, Any], runs: Path, *overrides: str, **options: Any) -> Path:
    return api.train(config_from_dict(recipe), overrides=overrides, runs=runs, **options).folder


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


class Sees(ReverseKL):
    """The default loss, which keeps what its plan is shown."""

    kind: Literal["sees"] = "sees"  # pyright: ignore[reportIncompatibleVariableOverride]
    seen: ClassVar[list[StepTokens]] = []

    def plan(self, step: StepTokens) -> Plan:
        self.seen.append(step)
        return super().plan(step)


def test_a_prefix_is_the_teachers_own_text_and_anneals_away(
    short: dict[str, Any], tmp_path: Path
) -> None:
    Sees.seen.clear()
    folder = train(short | {"behaviour": PREFIX, "objective": Sees(top_k=4)}, tmp_path)
    given = [row["rollout/given"] for row in lines(folder)]
    # All of it at first, ½ (1 + cos(π/4)) of 12 tokens at most next, and so on.
    assert given[0] == 1.0 and given == sorted(given, reverse=True) and given[-1] < 0.3
    for step, longest in zip(Sees.seen, (12, 10, 6, 1), strict=True):
        tokens = step.tokens
        assert torch.equal(tokens.forced, tokens.position < longest)
        teachers = tokens.author == int(Author.TEACHER)
        assert torch.equal(teachers, tokens.forced)


def test_completions_are_what_each_teacher_alone_would_say(
    short: dict[str, Any], tmp_path: Path
) -> None:
    two = short | {"teachers": {"a": short["teacher"], "b": short["student"]}, "behaviour": PREFIX}
    config = config_from_dict({k: v for k, v in two.items() if k != "teacher"} | {"task": Sums()})
    with open_world(torch.device("cpu")) as world:
        run, _ = assemble(config, tmp_path, world, lambda event: None)
        asked = [Request(i, (5,), (6, 4 + i % 9), teacher="ab"[i % 2]) for i in range(8)]
        sample = vars(run.completions)["_sample"]
        assert isinstance(run.engine, Engine)
        for request, found in zip(asked, sample(asked, 7), strict=True):
            (alone,) = Engine(run.engine.teachers[request.teacher], {}, slots=1).generate(
                [replace(request, student_ids=request.teacher_ids)],
                behaviour=Student(),
                clock=Clock(0, 1),
                sampling=Sampling(7),
                seed=0,
                record=SignalSpec(),
            )
            assert found == tuple(alone.ids.tolist())
        given = run.completions(asked, behaviour=config.behaviour, clock=Clock(0, 4))
        del run
    assert all(r.forced_ids and r.forced_author is Author.TEACHER for r in given)
    assert [replace(r, forced_ids=()) for r in given] == asked


def test_resuming_with_given_tokens_equals_an_uninterrupted_run(
    short: dict[str, Any], tmp_path: Path
) -> None:
    recipe = short | {"behaviour": {"kind": "teacher_prefix"}}
    whole = train(recipe, tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "cut" / "tiny")
    for step in (3, 4):
        shutil.rmtree(tmp_path / "cut" / "tiny" / "checkpoints" / f"step-{step:06d}")
    again = train(recipe, tmp_path / "cut", resume=True)
    assert lines(whole, "samples.jsonl") == lines(again, "samples.jsonl")
    left, right = (load_file(f / "final" / "model.safetensors") for f in (whole, again))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_data_sets_completions_are_learnt_from(short: dict[str, Any], tmp_path: Path) -> None:
    mix = {"kind": "off_policy_mix", "on_policy_fraction": 0, "completions": "dataset"}
    recipe = short | {"task": Sums(), "behaviour": mix, "objective": "supervised"}
    folder = train(recipe | {"training": {"steps": 6}, "optimizer": {"lr": 0.03}}, tmp_path)
    assert {s["completion"] for s in lines(folder, "samples.jsonl")} == {"+7"}
    rows = lines(folder)
    assert all(row["rollout/given"] == 1.0 and row["rollout/length"] == 3 for row in rows)
    assert rows[-1]["train/cross_entropy"] < 0.5 * rows[0]["train/cross_entropy"]
    with pytest.raises(ValueError, match=r"^prompt '.*' has no completion, but behaviour\.compl"):
        train(recipe | {"name": "x", "task": Sums(completion="")}, tmp_path)


def test_sft_warm_up_is_two_phases(short: dict[str, Any], tmp_path: Path) -> None:
    # The teacher's answers to the first two steps' prompts, then distillation from the same ones.
    phases = [
        {"until_step": 2, "behaviour": "teacher", "objective": "supervised"},
        {"prompts": "restart", "optimizer": "reset", "behaviour": "student", "objective": FULL},
    ]
    folder = train(short | {"phases": phases}, tmp_path)
    rows, samples = lines(folder), lines(folder, "samples.jsonl")
    assert ["train/cross_entropy" in row for row in rows] == [True, True, False, False]
    assert ["train/reverse_kl" in row for row in rows] == [False, False, True, True]
    asked = [[s["prompt"] for s in samples if s["step"] == step] for step in (1, 2, 3, 4)]
    assert asked[:2] == asked[2:]


def test_a_cache_is_filled_once_and_read_by_another_run(
    short: dict[str, Any], tmp_path: Path
) -> None:
    kept = PREFIX | {"completions": "cache", "cache": str(tmp_path / "cache")}
    recipe = short | {"behaviour": kept, "training": {"steps": 2}}
    first = train(recipe, tmp_path / "a")
    written = sorted((p.name, p.read_bytes()) for p in (tmp_path / "cache").iterdir())
    assert len(written) == 1 and written[0][1].count(b"\n") == 1 + 2 * 8
    second = train(recipe | {"name": "again"}, tmp_path / "b")
    assert written == sorted((p.name, p.read_bytes()) for p in (tmp_path / "cache").iterdir())
    assert lines(first, "samples.jsonl") == lines(second, "samples.jsonl")
    # The teacher as it is loaded is part of whose answers these are.
    other = recipe | {"name": "other", "teacher": recipe["teacher"] | {"dtype": "bfloat16"}}
    with pytest.raises(
        ValueError, match=r"holds answers of .*teacher \(float32, ends \[1\], weights \w+\) over"
    ):
        train(other, tmp_path / "c")
