"""Runs in phases and runs that reuse their responses: what they do, and that resuming changes
nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from training_tiny import tiny_recipe

from tandem import run as api
from tandem.objectives import ReverseKL
from tandem.objectives.base import Plan, StepTokens
from tandem.training.config import config_from_dict
from tandem.training.events import Event, Phase, Saved
from tandem.training.loop import roll_out, train_loop
from tandem.training.parallel import open_world
from tandem.types import SignalSpec
from tandem.wiring import assemble

# The teacher's text by cross-entropy's cousin, then another loss from the same prompts and anew,
# then the recipe's own to the end.
PHASES: list[dict[str, Any]] = [
    {"until_step": 2, "behaviour": "teacher", "objective": {"kind": "reverse_kl", "top_k": 3}},
    {"until_step": 5, "prompts": "restart", "optimizer": "reset"},
]


def eight_steps(pair: Path) -> dict[str, Any]:
    """Eight quick steps without evaluations, a checkpoint after each."""
    return tiny_recipe(pair) | {
        "behaviour": {"kind": "trust_region_blend", "budget": 0.05, "warmup_steps": 2},
        "optimizer": {"lr": 0.01, "warmup_steps": 2, "schedule": "cosine"},
        "training": {"steps": 8, "save_every": 1, "keep_last": 9, "tokens_per_micro_batch": 200},
        "evaluation": None,
    }


@pytest.fixture
def short(pair: Path) -> dict[str, Any]:
    return eight_steps(pair)


@pytest.fixture(scope="module")
def whole(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in phases, without a break."""
    recipe = eight_steps(pair) | {"phases": PHASES}
    return train(recipe, tmp_path_factory.mktemp("whole")).folder


def train(recipe: dict[str, Any], runs: Path, *overrides: str, **options: Any) -> api.TrainResult:
    return api.train(config_from_dict(recipe), overrides=overrides, runs=runs, **options)


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    timed = ("time/", "rollout/tokens_per_second")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(p.name.removeprefix("step-")) for p in (folder / "checkpoints").iterdir())


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit: every line of both logs, and the final weights."""
    assert lines(a) == lines(b)
    assert lines(a, "samples.jsonl") == lines(b, "samples.jsonl")
    left, right = (load_file(folder / "final" / "model.safetensors") for folder in (a, b))
    assert all(torch.equal(left[name], right[name]) for name in left)


def cut_back(whole: Path, copy: Path, step: int) -> None:
    """The run folder as a process killed soon after `step` left it."""
    shutil.copytree(whole, copy / "tiny")
    for found in checkpoints(copy / "tiny"):
        if found > step:
            shutil.rmtree(copy / "tiny" / "checkpoints" / f"step-{found:06d}")
    shutil.rmtree(copy / "tiny" / "final")


# Where the second phase begins and AdamW is reset; within the first, within it, and after it.
@pytest.mark.parametrize(
    "step", [2, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 4, 5, 6))]
)
def test_resuming_in_any_phase_equals_an_uninterrupted_run(
    short: dict[str, Any], tmp_path: Path, whole: Path, step: int
) -> None:
    cut_back(whole, tmp_path, step)
    assert_same_run(train(short | {"phases": PHASES}, tmp_path, resume=True).folder, whole)


def test_a_phase_decides_law_loss_prompts_and_rate(whole: Path) -> None:
    rows = lines(whole)
    assert [row["rollout/exponent"] == 1.0 for row in rows] == [True] * 2 + [False] * 6
    budgets = [row.get("rollout/budget") for row in rows]
    # Each later phase has its own clock: the budget falls twice.
    assert budgets == [None, None, 0.05, 0.025, 0.0, 0.05, 0.025, 0.0]
    samples = lines(whole, "samples.jsonl")
    prompts = [[s["prompt"] for s in samples if s["step"] == k + 1] for k in range(8)]
    assert prompts[2:4] == prompts[0:2] and len({tuple(p) for p in prompts}) == 6
    assert len({s["id"] for s in samples}) == len(samples)
    rates = [row["train/lr"] for row in rows]
    assert rates[:2] == rates[2:4] == pytest.approx([0.0025, 0.0075])
    assert rates[4] == 0.01 and rates[5] < 0.01
    card = (whole / "final" / "README.md").read_text()
    assert "| behaviour | `teacher`, then `trust_region_blend` |" in card
    assert "| objective | `reverse_kl` |" in card


def test_updates_that_share_responses_ask_the_teacher_once(
    short: dict[str, Any], tmp_path: Path
) -> None:
    def asked(updates: int) -> int:
        """Forwards of the teacher for one batch of responses that it did not draw."""
        training = {"steps": updates, "updates_per_rollout": updates, "tokens_per_micro_batch": 60}
        plain = {"behaviour": "student", "optimizer": {"lr": 0.01}, "training": training}
        config = config_from_dict(short | plain)
        calls: list[int] = []
        with open_world(torch.device("cpu")) as world:
            folder = tmp_path / str(updates)
            folder.mkdir()
            run, _ = assemble(config, folder, world, lambda event: None)
            body = run.module.frozen_models["teacher teacher"].get_submodule("model")
            body.register_forward_hook(lambda *_: calls.append(1))
            assert train_loop(run, start=0).step == updates
            del run, body
        return len(calls)

    assert asked(3) == asked(1) > 0


def test_a_reset_zeroes_adamws_moments_and_nothing_else_does(
    short: dict[str, Any], tmp_path: Path
) -> None:
    def steps_counted(phases: list[dict[str, Any]]) -> set[float]:
        config = config_from_dict(
            short | {"phases": phases, "training": {"steps": 5, "save_every": 9}}
        )
        with open_world(torch.device("cpu")) as world:
            run, _ = assemble(config, tmp_path, world, lambda event: None)
            train_loop(run, start=0)
            found = {float(state["step"]) for state in run.optimizer.state.values()}
            del run
        return found

    assert steps_counted([{"until_step": 2, "optimizer": "reset"}, {}]) == {5.0}
    assert steps_counted([{"until_step": 2}, {"optimizer": "reset"}]) == {3.0}


def test_each_phase_records_what_its_own_objective_reads(
    short: dict[str, Any], tmp_path: Path
) -> None:
    wide = {"kind": "reverse_kl", "support": "teacher_topk", "top_k": 6}
    phases = [{"until_step": 2, "behaviour": "teacher", "objective": wide}]
    config = config_from_dict(short | {"phases": phases})
    line = config.timeline()
    with open_world(torch.device("cpu")) as world:
        run, _ = assemble(config, tmp_path, world, lambda event: None)
        early, late = (roll_out(run, line.at(step), step) for step in (0, 2))
        del run
    for rollout in early.rollouts:
        assert rollout.signal.teacher_topk_ids is not None
        assert rollout.signal.teacher_topk_ids.shape == (len(rollout), 6)
        assert rollout.signal.student_topk_ids is None
    for rollout in late.rollouts:
        assert rollout.signal.student_topk_ids is not None
        assert rollout.signal.student_topk_ids.shape == (len(rollout), 4)
        assert (rollout.policy_version, rollout.signal.teacher_topk_ids) == (2, None)


def test_responses_that_serve_two_updates(short: dict[str, Any], tmp_path: Path) -> None:
    saved: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, Saved) and event.path.name != "final":
            saved.append(event.step)

    result = train(
        short,
        tmp_path,
        "training.updates_per_rollout=2",
        "training.save_every=3",
        listener=listen,
    )
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["train/staleness"] for row in rows] == [0.0, 1.0] * 4
    assert [row["time/rollout"] > 0 for row in rows] == [True, False] * 4
    assert all(set(row) == set(rows[0]) for row in rows), "every line has the same keys"
    for a, b in zip(rows[::2], rows[1::2], strict=True):
        # One batch of responses under one budget; another loss after the first update.
        same = ("rollout/length", "rollout/truncated", "rollout/kl_spent", "rollout/budget")
        assert all(a[key] == b[key] for key in same)
        assert a["train/loss"] != b["train/loss"]
    # Steps 3 and 6 are due: 3 lies within a batch of responses, so step 4 is saved.
    assert saved == [4, 6, 8] == checkpoints(result.folder)
    samples = lines(result.folder, "samples.jsonl")
    assert sorted({s["step"] for s in samples}) == [1, 3, 5, 7]
    assert len({s["prompt"] for s in samples}) > 8, "prompts advance with the responses"


def test_a_run_that_reuses_responses_stops_between_them_and_resumes(
    short: dict[str, Any], tmp_path: Path
) -> None:
    training = {"steps": 4, "updates_per_rollout": 2, "tokens_per_micro_batch": 200}
    phases = [{"until_step": 2, "optimizer": "reset"}, {"optimizer": "reset"}]
    reused = short | {"phases": phases, "training": training}
    uncut = train(reused, tmp_path / "uncut").folder

    def stop_in_step_one(event: Event) -> None:
        if isinstance(event, Phase) and (event.name, event.step, event.done) == ("update", 1, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    cut = train(reused, tmp_path / "cut", listener=stop_in_step_one)
    assert (cut.steps, cut.interrupted) == (2, True)
    assert checkpoints(cut.folder) == [2]
    assert_same_run(train(reused, tmp_path / "cut", resume=True).folder, uncut)


class Watches(ReverseKL):
    """The default loss, whose plan reads the student as it is now and keeps what it saw."""

    seen: ClassVar[list[StepTokens]] = []

    def planned(self) -> SignalSpec:
        return SignalSpec(current=True)

    def plan(self, step: StepTokens) -> Plan:
        self.seen.append(step)
        return super().plan(step)


def test_every_update_plans_anew_with_the_student_of_that_update(
    short: dict[str, Any], tmp_path: Path
) -> None:
    Watches.seen.clear()
    config = config_from_dict(
        short | {"objective": Watches(top_k=4), "training": {"steps": 4, "updates_per_rollout": 2}}
    )
    api.train(config, runs=tmp_path)
    assert len(Watches.seen) == 4
    for first, second in (Watches.seen[:2], Watches.seen[2:]):
        a, b = first.tokens, second.tokens
        assert torch.equal(a.ids, b.ids) and torch.equal(a.sequence, b.sequence)
        assert a.current_logp is not None and b.current_logp is not None
        # Fresh at the first update, moved on at the second; the record stays.
        torch.testing.assert_close(a.current_logp, a.student_logp, rtol=0, atol=1e-4)
        assert (b.current_logp - b.student_logp).abs().max() > 1e-2
        assert torch.equal(a.student_logp, b.student_logp)
    versions = [set(s.tokens.policy_version.tolist()) for s in Watches.seen]
    assert versions == [{0}, {0}, {2}, {2}]
    assert [s.clock.step for s in Watches.seen] == [0, 1, 2, 3]


def test_a_resumed_run_keeps_how_often_it_reuses_its_responses(
    short: dict[str, Any], tmp_path: Path
) -> None:
    train(short, tmp_path, "training.steps=2")
    with pytest.raises(ValueError) as raised:
        train(short, tmp_path, "training.updates_per_rollout=2", resume=True)
    assert str(raised.value) == (
        f"{tmp_path / 'tiny'} was begun with another training.updates_per_rollout; a resumed run "
        "keeps them, so give this one another name"
    )
