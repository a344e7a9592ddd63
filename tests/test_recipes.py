"""Every recipe in recipes/ is one that can be run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tandem.cli import app
from tandem.training.config import config_from_dict, dump_config, load_config
from tandem.training.own_recipes import own_recipes

RUNS = sorted(
    name
    for name, path in own_recipes().items()
    if path.parent.name in ("trb", "tropd") or "rollout:" in path.read_text()
)
TRB_ROWS = ("opd", "trb", "temperature", "sft_warmup", "skd", "veto", "fixed_budget")
TROPD_ROWS = (
    *("opd", "forward_kl", "jsd", "entropy_20", "clip_outlier", "mask_outlier"),
    *("forward_kl_outlier", "tropd_mask", "tropd_clip", "tropd"),
    *("eopd", "reopold", "aopd", "tropd_aopd"),
)


def test_the_recipes_of_the_papers_and_of_the_demo_are_there() -> None:
    rows = {
        f"papers/trb/{pair}_{row}" for pair in ("1.7b_from_8b", "0.6b_from_4b") for row in TRB_ROWS
    }
    rows |= {f"papers/tropd/1.5b_from_7b_{row}" for row in TROPD_ROWS}
    others = {"arithmetic", "qwen3_0.6b_from_4b_trb", "qwen3_1.7b_from_8b_trb"}
    assert set(RUNS) == rows | others


def test_rows_of_one_table_differ_in_nothing_but_their_method() -> None:
    free = {"name", "behaviour", "objective", "phases", "training"}
    for folder in ("trb/1.7b_from_8b", "trb/0.6b_from_4b", "tropd/1.5b_from_7b"):
        configs = [
            load_config(own_recipes()[name]).model_dump(mode="json")
            for name in RUNS
            if name.startswith(f"papers/{folder}")
        ]
        shared = [{k: v for k, v in config.items() if k not in free} for config in configs]
        assert all(config == shared[0] for config in shared)
        # The SFT warm-up comes before the steps that all rows have.
        steps = {config["training"].pop("steps") for config in configs}
        assert steps <= {200} or steps == {400, 425}
        assert all(config["training"] == configs[0]["training"] for config in configs)


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_loads_and_its_resolved_form_loads_back_equal(name: str) -> None:
    config = load_config(own_recipes()[name])
    assert config_from_dict(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_passes_the_dry_run_without_a_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", _no_network)
    result = CliRunner().invoke(app, ["train", name, "--dry-run"])
    assert result.exit_code == 0, result.output
    for heading in ("# the resolved run", "# tokens", "# behaviour by step", "# memory"):
        assert heading in result.stdout
    assert "assumed: " in result.stdout
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing behind"


def _no_network(*_: object) -> None:
    raise AssertionError("a dry run asked the network")


@pytest.mark.parametrize(
    ("name", "student", "teacher"),
    [
        ("qwen3_1.7b_from_8b_trb", "Qwen/Qwen3-1.7B-Base", "Qwen/Qwen3-8B"),
        ("qwen3_0.6b_from_4b_trb", "Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-4B"),
    ],
)
def test_the_papers_common_settings(name: str, student: str, teacher: str) -> None:
    """arXiv 2605.31159, as docs/methods quote it: AdamW, 64 × 4, 400 steps, student top-16."""
    config = load_config(own_recipes()[name])
    judge = config.teacher
    assert judge is not None
    assert (config.student.path, judge.path) == (student, teacher)
    # A base student and a chat teacher end with different ids; the emitted one is the student's.
    assert config.student.end_ids == (151643,)
    assert judge.end_ids == (151645, 151643)
    assert (config.student.prompt, judge.prompt) == ("plain", "chat")
    assert judge.thinking is False
    optimizer, rollout = config.optimizer, config.rollout
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (1e-5, (0.9, 0.999), 0.01)
    assert (optimizer.clip_norm, optimizer.schedule, optimizer.warmup_steps) == (
        1.0,
        "constant",
        15,
    )
    assert (rollout.prompts_per_step, rollout.samples_per_prompt) == (64, 4)
    assert (rollout.max_prompt_tokens, rollout.max_new_tokens) == (1024, 7168)
    assert config.training.steps == 400
    behaviour = config.behaviour.model_dump()
    assert behaviour == {"kind": "trust_region_blend", "budget": 0.02, "warmup_steps": 50}
    objective = config.objective.model_dump()
    assert (objective["support"], objective["top_k"]) == ("student_topk", 16)
    assert config.evaluation is not None and config.evaluation.every == 20
