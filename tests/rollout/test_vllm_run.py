"""A run whose roll-outs go over to vLLM when its warm-up is over, and evaluations with vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_vllm_engine import engine_of, generate, requests
from vllm_cases import change, kinds, student, there

from tandem.run import evaluate, train
from tandem.training.config import RunConfig, load_config
from tandem.training.events import Event, Note
from tandem.training.own_recipes import recipe_path
from tandem.types import SignalSpec

STEPS, WARM_UP = 6, 3
SHORT = (
    f"training.steps={STEPS}",
    f"behaviour.warmup_steps={WARM_UP}",
    "rollout.prompts_per_step=48",
    "rollout.slots=24",
    "evaluation=null",
)
STARTS = "vLLM starts: from here it speaks for the student alone"


def recipe(*overrides: str) -> RunConfig:
    return load_config(recipe_path("arithmetic"), [*SHORT, *overrides])


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(params=kinds("real"))
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    with there(request.param):
        yield request.param


@pytest.mark.slow  # make test-vllm runs it, with the real one too
def test_a_run_hands_over_when_its_warm_up_is_over(kind: str, tmp_path: Path) -> None:
    told: list[Event] = []
    own = train(recipe("rollout.engine=vllm"), runs=tmp_path / "vllm", listener=told.append)
    here = log(own.folder)
    there_ = log(train(recipe(), runs=tmp_path / "native").folder)
    gaps = [line.get("rollout/engine_logp_gap") for line in here]
    assert gaps[:WARM_UP] == [None] * WARM_UP
    assert all(gap is not None and gap < 1e-5 for gap in gaps[WARM_UP:])
    # Until then it is the same run to the last bit; after it, other draws from like laws.
    for mine, other in zip(here[:WARM_UP], there_[:WARM_UP], strict=True):
        for key in ("train/loss", "train/grad_norm", "rollout/length", "rollout/exponent"):
            assert mine[key] == other[key]
    assert all(line["rollout/exponent"] == 0.0 for line in here[WARM_UP:])
    assert here[WARM_UP]["train/loss"] != there_[WARM_UP]["train/loss"]
    # The same weights, and some 450 tokens each whose reverse KL has a standard deviation near 3.
    found, same = (lines[WARM_UP]["train/reverse_kl"] for lines in (here, there_))
    assert found == pytest.approx(same, abs=0.6)
    assert [e.text for e in told if isinstance(e, Note) and "vLLM" in e.text] == [STARTS]
    versions = json.loads((own.folder / "environment.json").read_text())["versions"]
    assert kind == "fake" or any(name.startswith("vllm") for name in versions)


def test_an_evaluation_with_vllm_scores_as_the_native_one_does(kind: str) -> None:
    del kind
    config = load_config(recipe_path("arithmetic"), ["evaluation.problems=16"])
    assert config.evaluation is not None
    limits: dict[str, Any] = {"max_prompt_tokens": 16, "max_new_tokens": 32, "threads": 1}

    def scored(**options: Any) -> tuple[float, float]:
        assert config.evaluation is not None
        result = evaluate(
            "embedded:teacher", task=config.task, settings=config.evaluation, **limits, **options
        )
        return result.pass_at_1.mean, result.mean_length

    mine, native = scored(engine="vllm"), scored()
    assert mine[0] > 0.97 and mine == pytest.approx(native, rel=0.05)


def test_bfloat16_is_rounding_and_a_head_not_given_is_not() -> None:
    with there("real"):
        speaker = student(tied=False, dtype=torch.bfloat16)
        engine = engine_of(speaker)
        try:
            found = generate(engine, requests(64), record=SignalSpec(student_entropy=True))
            gap = torch.cat([r.stats["engine_logp_gap"] for r in found[:8]]).mean()
            assert 1e-4 < float(gap) < 0.05
            with torch.no_grad():
                speaker.head.weight.mul_(2.0)
            with pytest.raises(ValueError, match=r"rounding explains \(0\.05\)"):
                generate(engine, requests(64))
            change(speaker, 1)
            engine.refresh()
            generate(engine, requests(64))
        finally:
            engine.close()
