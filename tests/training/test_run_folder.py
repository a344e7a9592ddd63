"""What a run folder is to those who come later: a second run, a resumed one, an evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tandem import run as api
from tandem.training.claim import claim
from tandem.training.config import config_from_dict


def train(recipe: dict[str, Any], runs: Path, *overrides: str, **options: Any) -> api.TrainResult:
    return api.train(config_from_dict(recipe), overrides=overrides, runs=runs, **options)


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_chat_teachers_end_id_stays_silent_in_the_final_model(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    pair = tmp_path / "pair"
    shutil.copytree(Path(recipe["student"]["path"]).parent, pair)
    ends = pair / "teacher" / "generation_config.json"
    ends.write_text(json.dumps(json.loads(ends.read_text()) | {"eos_token_id": 5}))
    recipe |= {"teacher": {"path": str(pair / "teacher")}}
    result = train(recipe, tmp_path)
    config = config_from_dict(recipe)
    assert config.evaluation is not None
    again = api.evaluate(
        str(result.folder / "final"),
        task=config.task,
        settings=config.evaluation,
        max_prompt_tokens=config.rollout.max_prompt_tokens,
        max_new_tokens=config.rollout.max_new_tokens,
    )
    last = {key: value for key, value in result.metrics.items() if key.startswith("eval/")}
    assert again.metrics() == last
    model = AutoModelForCausalLM.from_pretrained(result.folder / "final")
    assert model.generation_config.suppress_tokens == [5]


def test_resuming_a_finished_run_changes_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    names = ("metrics.jsonl", "final/README.md", "final/model.safetensors")
    first = train(recipe, tmp_path)
    before = [(first.folder / name).read_bytes() for name in names]
    again = train(recipe, tmp_path, resume=True)
    assert (again.steps, again.interrupted, again.metrics) == (6, False, first.metrics)
    assert [(again.folder / name).read_bytes() for name in names] == before


def test_two_runs_of_one_name_at_once_are_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    said = r"tiny is in use by another process; wait for that run, stop it, or give this one anoth"
    with claim(tmp_path / "tiny", first=True), pytest.raises(ValueError, match=said):
        train(recipe, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file cannot be used \(File exists\); give the run anot"):
        train(recipe, tmp_path, "name=file")
    with pytest.raises(ValueError, match=r"'\.' is no folder name"):
        train(recipe, tmp_path, "name=.")


def test_a_support_of_one_id_trains_alike_from_the_record_and_from_the_teacher(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    # Step 4 is the last to blend: the loss reads the record there, and asks the teacher after it.
    recipe |= {"objective": {"kind": "reverse_kl", "top_k": 1, "tail": "bucket"}}
    result = train(recipe, tmp_path)
    rows = lines(result.folder)[1:]
    assert all(0 <= row["train/reverse_kl"] < 3 for row in rows)
    assert all(row["train/student_mass"] <= 1 for row in rows)
