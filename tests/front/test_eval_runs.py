"""A run's models by name: `@final`, `@best`, `@step4`, and what is said of those not kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tandem.cli import app
from tandem.front.evaluating import plan
from tandem.front.run_models import folder_of, parse
from tandem.run import train
from tandem.training.keeping import read_selected

SHORT = (
    "name=short",
    "training.steps=4",
    "training.save_every=1",
    "training.keep_last=2",
    "rollout.prompts_per_step=4",
    "rollout.samples_per_prompt=2",
    "task.train_size=200",
    "evaluation.every=2",
    "evaluation.problems=8",
    "optimizer.lr=1e-3",
    "optimizer.warmup_steps=0",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    recipe = Path(__file__).parents[2] / "recipes" / "arithmetic.yaml"
    return train(recipe, overrides=SHORT, runs=runs).folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_run_alone_is_its_final_model(run: Path) -> None:
    assert folder_of(parse(str(run))) == folder_of(parse(f"{run}@final")) == run / "final"


def test_the_best_model_is_the_one_that_was_selected_on_validation(run: Path) -> None:
    assert read_selected(run / "best") is not None
    assert folder_of(parse(f"{run}@best")) == run / "best"
    assert plan(f"{run}@best", task=None, overrides=[]).model.path == str(run / "best")


def test_a_checkpoint_is_the_model_of_its_step(run: Path) -> None:
    last = folder_of(parse(f"{run}@step4"))
    assert last == run / "models" / "step-000004"
    final = weights(run / "final")
    assert weights(last).keys() == final.keys()
    assert all(torch.equal(weights(last)[name], tensor) for name, tensor in final.items())
    before = weights(folder_of(parse(f"{run}@step3")))
    assert not all(torch.equal(before[name], tensor) for name, tensor in final.items())
    for name in ("generation_config.json", "tokenizer.json"):
        assert (last / name).read_bytes() == (run / "final" / name).read_bytes()


def test_a_written_checkpoint_stays_when_the_run_deletes_it(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    kept = folder_of(parse(f"{copy}@step-000003"))
    shutil.rmtree(copy / "checkpoints")
    assert folder_of(parse(f"{copy}@step3")) == kept


def test_without_another_model_the_teachers_say_which_ids_are_silent(
    run: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for name in ("final", "best", "models"):
        shutil.rmtree(copy / name, ignore_errors=True)
    said = json.loads((run / "final" / "generation_config.json").read_bytes())
    found = json.loads((folder_of(parse(f"{copy}@step4")) / "generation_config.json").read_bytes())
    assert found == said


def test_what_is_not_kept_is_said_with_what_is(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        folder_of(parse(f"{run}@step1"))
    assert f"{run} keeps no weights of step 1; it has @final, @best, @step3, @step4 (" in str(
        caught.value
    )
    with pytest.raises(ValueError, match=r"a run has no model 'last'; .* has @final, @best, @step"):
        folder_of(parse(f"{run}@last"))
    (tmp_path / "config.yaml").write_text("name: bare\n")
    with pytest.raises(ValueError, match="has no final model yet; finish the run with --resume"):
        folder_of(parse(str(tmp_path)))
    with pytest.raises(ValueError, match=r"keeps no best model, .*; it has none$"):
        folder_of(parse(f"{tmp_path}@best"))
    with pytest.raises(ValueError, match=r"^embedded:student is no run \(it holds no config.yaml"):
        parse("embedded:student@best")


def test_a_folders_own_name_may_hold_the_sign(run: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a@best"
    odd.mkdir()
    assert (parse(str(odd)).path, parse(str(odd)).at) == (str(odd), None)
    shutil.copytree(run, tmp_path / "x@y")
    assert folder_of(parse(f"{tmp_path}/x@y@final")) == tmp_path / "x@y" / "final"


def test_a_suite_is_evaluated_on_a_runs_step_and_kept_in_the_run(run: Path) -> None:
    result = CliRunner().invoke(
        app,
        [
            *("eval", f"{run}@step4", "--suite", "arithmetic", "--samples", "1"),
            *("limits.problems=8", "suite.max_new_tokens=16"),
        ],
    )
    assert result.exit_code == 0, result.stderr
    written = json.loads((run / "suites" / "step4" / "arithmetic" / "result.json").read_bytes())
    assert written["problems"] == 8
    other = CliRunner().invoke(app, ["eval", f"{run}@final", "evaluation.problems=8"])
    assert other.exit_code == 0 and "pass@1" in other.stdout
