"""The best model on validation problems, and the scores that evaluations leave behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tandem import run as api
from tandem.evaluation.record import read_record, step_records
from tandem.training.config import config_from_dict
from tandem.training.keeping import Selected, keeping_best, read_selected


def _nothing(done: int, total: int) -> None:
    del done, total


class _Scores:
    """An evaluation that scores what it is told, and what was saved after which step."""

    def __init__(self, folder: Path, **scores: float) -> None:
        self.saved: list[int] = []
        self._scores = {int(step.removeprefix("after_")): s for step, s in scores.items()}
        self._best = folder / "best"
        self.keeping = keeping_best(self._evaluate, best=self._best, save=self._save)

    def _evaluate(self, step: int, on_progress: Any) -> dict[str, float]:
        return {"eval/pass@1": self._scores[step], "eval/length": 3.0}

    def _save(self, now: Selected, metrics: dict[str, float]) -> None:
        assert metrics["eval/pass@1"] == now.score
        self._best.mkdir(exist_ok=True)
        (self._best / "selected.json").write_text(now.text())
        self.saved.append(now.step)

    def run(self) -> list[int]:
        for step in sorted(self._scores):
            found = self.keeping(step, _nothing)
            assert found == {"eval/pass@1": self._scores[step], "eval/length": 3.0}
        return self.saved


def test_the_model_is_saved_wherever_none_before_scored_as_much(tmp_path: Path) -> None:
    run = _Scores(tmp_path, after_0=0.9, after_2=0.1, after_4=0.3, after_6=0.3, after_8=0.2)
    # Not the untrained student, and of equal ones the earliest.
    assert run.run() == [2, 4]
    assert read_selected(tmp_path / "best") == Selected(4, 0.3)


def test_a_resumed_run_goes_on_from_the_best_that_is_there(tmp_path: Path) -> None:
    _Scores(tmp_path, after_2=0.1, after_4=0.3).run()
    assert _Scores(tmp_path, after_6=0.2, after_8=0.4).run() == [8]


def test_a_step_that_is_done_again_is_saved_again(tmp_path: Path) -> None:
    _Scores(tmp_path, after_2=0.1, after_4=0.3).run()
    # Killed after step 4 and resumed from a checkpoint before it.
    assert _Scores(tmp_path, after_3=0.2, after_4=0.25, after_5=0.26).run() == [4, 5]


def train(recipe: dict[str, Any], runs: Path, *overrides: str, **options: Any) -> api.TrainResult:
    return api.train(config_from_dict(recipe), overrides=overrides, runs=runs, **options)


def rows(folder: Path) -> dict[int, float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["eval/pass@1"] for line in lines if "eval/pass@1" in line}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_a_run_keeps_the_weights_of_its_best_evaluation(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe["evaluation"] |= {"every": 2, "split": "validation"}
    folder = train(recipe, tmp_path).folder
    scores = rows(folder)
    found = read_selected(folder / "best")
    assert found is not None
    trained = {step: score for step, score in scores.items() if step > 0}
    assert found.score == max(trained.values())
    assert found.step == min(step for step, s in trained.items() if s == found.score)
    # At a constant rate the same run, stopped there, has that best model as its final one.
    shorter = train(recipe, tmp_path, f"training.steps={found.step}", "name=shorter")
    best, final = weights(folder / "best"), weights(shorter.folder / "final")
    assert all(torch.equal(best[name], final[name]) for name in final)
    last = weights(folder / "final")
    assert found.step < 6 and not all(torch.equal(best[name], last[name]) for name in last)


def test_a_run_watched_on_test_problems_selects_nothing(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe["evaluation"] |= {"split": "test"}
    assert not (train(recipe, tmp_path).folder / "best").exists()


def test_every_evaluation_keeps_the_score_of_every_problem(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe["evaluation"] |= {"every": 2, "problems": 5, "samples": 2}
    folder = train(recipe, tmp_path).folder
    scores = rows(folder)
    assert [step for step, _ in step_records(folder)] == sorted(scores)
    for step, name in step_records(folder):
        record = read_record(folder, name)
        assert record is not None and record.step == step and record.samples == 2
        assert len(record.scores) == 5 and set(record.scores.values()) <= {0.0, 0.5, 1.0}
        mean = sum(record.scores.values()) / 5
        assert mean == pytest.approx(scores[step]) == record.metrics["eval/pass@1"]


def test_a_resumed_run_forgets_evaluations_that_it_makes_again(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe["evaluation"] |= {"every": 1}
    folder = train(recipe, tmp_path, "training.save_every=2", "training.keep_last=9").folder
    before = {name: read_record(folder, name) for _, name in step_records(folder)}
    for checkpoint in sorted((folder / "checkpoints").iterdir())[1:]:
        shutil.rmtree(checkpoint)  # as if it had been killed before the second one
    seen: list[list[int]] = []

    def listen(event: Any) -> None:
        if not seen:
            seen.append([step for step, _ in step_records(folder)])

    train(
        recipe, tmp_path, "training.save_every=2", "training.keep_last=9", resume=True,
        listener=listen,
    )  # fmt: skip
    assert seen == [[0, 1, 2]]
    assert {name: read_record(folder, name) for _, name in step_records(folder)} == before
