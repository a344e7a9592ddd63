"""The loop: what a run leaves behind, resuming, stopping, and refusing to go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_tiny import tiny_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from tandem import run as api
from tandem.objectives import ReverseKL, TokenLoss
from tandem.training.config import config_from_dict
from tandem.training.events import Event, Finished, Note, Phase, Saved, Started, StepDone
from tandem.training.update import NotFinite
from tandem.types import Clock


def train(recipe: dict[str, Any], runs: Path, *overrides: str, **options: Any) -> api.TrainResult:
    return api.train(config_from_dict(recipe), overrides=overrides, runs=runs, **options)


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    timed = ("time/", "rollout/tokens_per_second")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def assert_equal_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


Whole = tuple[api.TrainResult, list[Event]]


class StopAt:
    """A listener that sends this process a signal while step `step` rolls out."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step, self.number, self.sent = step, number, False
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Phase) and event.name == "roll out" and event.step == self.step:
            if not self.sent:
                os.kill(os.getpid(), self.number)
            self.sent = True


@pytest.fixture(scope="module")
def whole(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The recipe's six steps without a break, and what a listener heard of them."""
    events: list[Event] = []
    runs = tmp_path_factory.mktemp("whole")
    return train(tiny_recipe(pair), runs, listener=events.append), events


def test_a_run_leaves_everything_behind(whole: Whole) -> None:
    result, events = whole
    assert (result.steps, result.interrupted) == (6, False)
    assert {p.name for p in result.folder.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "samples.jsonl",
        "environment.json",
        "checkpoints",
        "evaluations",
        "best",
        "final",
        "report.html",
    }
    rows = lines(result.folder)
    assert [row["step"] for row in rows] == list(range(7)), "every step stands once"
    assert [row["step"] for row in rows if "eval/pass@1" in row] == [0, 3, 6]
    assert result.metrics["train/reverse_kl"] == rows[-1]["train/reverse_kl"]
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    assert [e.step for e in events if isinstance(e, StepDone)] == [1, 2, 3, 4, 5, 6]
    saved = [e.path.name for e in events if isinstance(e, Saved)]
    assert saved == ["step-000003", "step-000006", "final"]


def test_the_budget_falls_and_what_is_spent_stays_within_it(whole: Whole) -> None:
    rows = lines(whole[0].folder)[1:]
    budgets = [row["rollout/budget"] for row in rows]
    assert budgets == pytest.approx([0.05, 0.0375, 0.025, 0.0125, 0.0, 0.0])
    for row in rows:
        assert 0 <= row["rollout/kl_spent"] <= row["rollout/budget"] * (1 + 1e-3) + 5e-7
        assert (row["rollout/exponent"] > 0) == (row["rollout/budget"] > 0)


def test_the_final_model_opens_with_from_pretrained_and_is_the_trained_one(
    whole: Whole, pair: Path
) -> None:
    final = whole[0].folder / "final"
    model = AutoModelForCausalLM.from_pretrained(final)
    tokenizer = AutoTokenizer.from_pretrained(final)
    before = load_file(pair / "student" / "model.safetensors")
    after = {name: p.detach() for name, p in model.named_parameters()}
    assert all(not torch.equal(before[name], after[name]) for name in after)
    assert tokenizer.decode(tokenizer.encode("12+34=")) == "12+34="
    assert model.generation_config.eos_token_id == [1]
    card = (final / "README.md").read_text()
    assert "AutoModelForCausalLM.from_pretrained" in card and "budget: 0.05" in card


def test_a_second_run_of_the_same_seed_gives_the_same_bits(
    recipe: dict[str, Any], tmp_path: Path, whole: Whole
) -> None:
    a, b = whole[0], train(recipe, tmp_path / "b")
    assert without_times(lines(a.folder)) == without_times(lines(b.folder))
    assert_equal_bits(weights(a.folder), weights(b.folder))
    c = train(recipe, tmp_path / "c", "seed=1")
    assert without_times(lines(a.folder)) != without_times(lines(c.folder))


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    recipe: dict[str, Any], tmp_path: Path, whole: Whole, number: signal.Signals
) -> None:
    uncut = whole[0]
    # Stopped within step 2: it is finished and saved, though no checkpoint was due.
    stopped = train(recipe, tmp_path / "cut", listener=StopAt(2, number))
    assert (stopped.steps, stopped.interrupted) == (2, True)
    assert not (stopped.folder / "final").exists()
    rest = train(recipe, tmp_path / "cut", resume=True)
    assert (rest.steps, rest.interrupted) == (6, False)
    assert without_times(lines(rest.folder)) == without_times(lines(uncut.folder))
    assert lines(rest.folder, "samples.jsonl") == lines(uncut.folder, "samples.jsonl")
    assert_equal_bits(weights(rest.folder), weights(uncut.folder))


def test_a_run_stopped_during_its_first_evaluation_begins_anew(
    recipe: dict[str, Any], tmp_path: Path, whole: Whole
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Phase) and event.name == "evaluate" and event.done == event.total:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(recipe, tmp_path, listener=stop)
    assert (stopped.steps, stopped.interrupted) == (0, True)
    resumed = train(recipe, tmp_path, resume=True)
    assert without_times(lines(resumed.folder)) == without_times(lines(whole[0].folder))


def test_the_log_is_cut_back_to_the_checkpoint_a_run_resumes_from(
    recipe: dict[str, Any], tmp_path: Path, whole: Whole
) -> None:
    uncut = whole[0]
    folder = tmp_path / "tiny"
    shutil.copytree(uncut.folder, folder)
    # As if it had been killed after step 5, while writing a line: the last checkpoint is step 3's.
    (folder / "checkpoints" / "step-000006").rename(folder / "checkpoints" / ".partial-x")
    log = folder / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:6]) + '{"step": 6, "tr')
    resumed = train(recipe, tmp_path, resume=True)
    assert without_times(lines(resumed.folder)) == without_times(lines(uncut.folder))
    assert_equal_bits(weights(resumed.folder), weights(uncut.folder))
    names = {p.name for p in (resumed.folder / "checkpoints").iterdir()}
    assert names == {"step-000003", "step-000006"}


def test_resuming_what_never_began_begins_it(recipe: dict[str, Any], tmp_path: Path) -> None:
    assert train(recipe, tmp_path, "training.steps=2", resume=True).steps == 2


def test_a_folder_in_use_is_not_overwritten(recipe: dict[str, Any], tmp_path: Path) -> None:
    train(recipe, tmp_path, "training.steps=2")
    with pytest.raises(ValueError, match="already holds a run; go on with it with --resume, or gi"):
        train(recipe, tmp_path, "training.steps=2")
    with pytest.raises(ValueError, match="was begun with another optimizer, seed; a resumed run k"):
        train(recipe, tmp_path, "seed=1", "optimizer.lr=1", resume=True)


class BreaksAt(ReverseKL):
    """A loss that is no number from step 5 on."""

    def loss(self, logits: Tensor, *, clock: Clock, **known: Any) -> TokenLoss:
        result = super().loss(logits, clock=clock, **known)
        broken = torch.nan if clock.step >= 4 else 1.0
        return replace(result, surrogate=result.surrogate * broken, value=result.value * broken)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    recipe: dict[str, Any], tmp_path: Path, whole: Whole
) -> None:
    broken = recipe | {"objective": BreaksAt(top_k=4)}
    with pytest.raises(NotFinite, match=r"^step 5: the loss is nan, so training stops; earlier"):
        train(broken, tmp_path)
    folder = tmp_path / "tiny"
    assert [row["step"] for row in lines(folder)] == [0, 1, 2, 3, 4]
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-000003"]
    resumed = train(recipe, tmp_path, resume=True)
    assert_equal_bits(weights(resumed.folder), weights(whole[0].folder))


def test_dropping_truncated_responses_trains_on_the_others_only(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    # One new token: whatever does not end at once is truncated, and may be all of a step.
    result = train(recipe, tmp_path, "rollout.truncated=drop", "rollout.max_new_tokens=1")
    rows = lines(result.folder)[1:]
    assert any(row["rollout/truncated"] > 0.0 for row in rows)
    for row in rows:
        assert row["train/trained_tokens"] == pytest.approx(8 * (1 - row["rollout/truncated"]))
        if row["rollout/truncated"] == 1.0:
            assert row["train/loss"] == 0.0 and row["train/grad_norm"] == 0.0
            assert "train/reverse_kl" not in row


def test_signals_have_their_old_handlers_after_a_run(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    train(recipe, tmp_path, "training.steps=1", "optimizer.warmup_steps=0")
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_outside_the_main_thread_works(recipe: dict[str, Any], tmp_path: Path) -> None:
    found: list[int] = []

    def work() -> None:
        found.append(train(recipe, tmp_path, "training.steps=1", "optimizer.warmup_steps=0").steps)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [1]


@pytest.mark.slow  # the step's own test, and the two ranks', are the fast ones
def test_gradient_checkpointing_changes_no_number(
    recipe: dict[str, Any], tmp_path: Path, whole: Whole
) -> None:
    spare = train(recipe, tmp_path, "training.gradient_checkpointing=true")
    for a, b in zip(lines(whole[0].folder), lines(spare.folder), strict=True):
        for key in without_times([a])[0]:
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize("support", ["student_topk", "teacher_topk"])
def test_a_support_larger_than_the_vocabulary_is_all_of_it(
    recipe: dict[str, Any], tmp_path: Path, support: str
) -> None:
    said: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            said.append(event.text)

    found: list[list[dict[str, Any]]] = []
    for k in (15, 64):
        fields = (f"objective.support={support}", f"objective.top_k={k}", f"name=top-{k}")
        result = train(recipe, tmp_path, *fields, "training.steps=2", listener=listen)
        found.append(without_times(lines(result.folder)))
    assert found[0] == found[1]
    assert "top_k is 64 and the models share 15 ids: all of them" in said


def test_evaluating_the_final_folder_gives_the_last_evaluation_of_the_run(
    recipe: dict[str, Any], whole: Whole
) -> None:
    config = config_from_dict(recipe)
    assert config.evaluation is not None
    result = api.evaluate(
        str(whole[0].folder / "final"),
        task=config.task,
        settings=config.evaluation,
        max_prompt_tokens=config.rollout.max_prompt_tokens,
        max_new_tokens=config.rollout.max_new_tokens,
    )
    assert result.metrics() == {
        key: value for key, value in whole[0].metrics.items() if key.startswith("eval/")
    }
