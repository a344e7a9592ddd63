"""The rehearsal: what will not fit stops in the first minute, and what fits is left as it was."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from tandem import run as api
from tandem.objectives import ReverseKL, TokenLoss
from tandem.training.config import RunConfig, config_from_dict
from tandem.training.events import Event, Note, Phase
from tandem.training.loop import Run
from tandem.training.parallel import World, open_world
from tandem.training.rehearsal import (
    GIB,
    Estimate,
    largest_update,
    memory_limit,
    peak_memory,
    rehearse,
)
from tandem.types import SignalSpec
from tandem.wiring import assemble, estimate_memory

CPU = torch.device("cpu")
SMALL = Estimate(total=1, cache_bytes=1, lines=())


def assembled(config: RunConfig, folder: Path, world: World) -> Run:
    return assemble(config, folder, world, lambda event: None)[0]


def test_a_rehearsal_leaves_weights_gradients_and_optimiser_as_they_were(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    config = config_from_dict(recipe)
    with open_world(CPU) as world:
        run = assembled(config, tmp_path, world)
        before = [p.detach().clone() for p in run.module.student_model.parameters()]
        rehearse(run.module, run.optimizer, config=config, estimate=SMALL, world=world)
        parameters = list(run.module.student_model.parameters())
        assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
        assert all(p.grad is None for p in parameters)
        for parameter in parameters:
            # What AdamW itself would begin with, so that the first step is the same.
            assert run.optimizer.state[parameter].keys() == {"step", "exp_avg", "exp_avg_sq"}
            assert all(not value.any() for value in run.optimizer.state[parameter].values())
        del run


class Seen(ReverseKL):
    """The default loss, which counts its calls."""

    kind: Literal["seen"] = "seen"  # pyright: ignore[reportIncompatibleVariableOverride]
    calls: ClassVar[list[int]] = []

    def loss(self, logits: Tensor, **known: Any) -> TokenLoss:
        self.calls.append(len(logits))
        return super().loss(logits, **known)


def test_the_objective_of_every_phase_is_rehearsed_once(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    phases = [{"until_step": k, "objective": Seen(top_k=3)} for k in (2, 3)]
    config = config_from_dict(recipe | {"phases": phases})
    Seen.calls.clear()
    with open_world(CPU) as world:
        run = assembled(config, tmp_path, world)
        rehearse(run.module, run.optimizer, config=config, estimate=SMALL, world=world)
        assert all(p.grad is None for p in run.module.parameters())
        del run
    assert sum(Seen.calls) == 24, "two rows of 12 tokens"


def test_what_does_not_fit_is_refused_with_the_arithmetic(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    config = config_from_dict(recipe)
    lines = ("weights 900.00 GiB = 225 G × 4 B", "cache 124.00 GiB = 8 slots × 15.5 GiB")
    estimate = Estimate(total=1024 * GIB, cache_bytes=124 * GIB, lines=lines)
    with open_world(CPU) as world:
        run = assembled(config, tmp_path, world)
        with pytest.raises(ValueError, match=r"^the run needs 1024\.0 GiB and there are ") as said:
            rehearse(run.module, run.optimizer, config=config, estimate=estimate, world=world)
        del run
    assert all(line in str(said.value) for line in lines)
    assert "lower training.tokens_per_micro_batch, rollout.slots or" in str(said.value)


def test_a_run_that_cannot_fit_stops_before_its_first_rollout(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    # The caches of a billion slots, which the recipe would fill.
    huge = {"slots": 10**9, "prompts_per_step": 10**9}
    recipe["rollout"] |= huge
    events: list[Event] = []
    with pytest.raises(ValueError, match=r"the run needs .* GiB .*student cache"):
        api.train(config_from_dict(recipe), runs=tmp_path, listener=events.append)
    assert not [e for e in events if isinstance(e, Phase) and e.name == "roll out"]


def test_the_rehearsed_update_is_the_largest_the_recipe_allows(recipe: dict[str, Any]) -> None:
    config = config_from_dict(recipe)
    scored = largest_update(config, SignalSpec(student_topk=4), vocabulary=15)
    # 12 prompt and 12 new tokens, of which the last is never read: 23, and 60 // 23 = 2 rows.
    assert [len(r.request.student_ids) + len(r) - 1 for r in scored.rollouts] == [23, 23]
    assert scored.denominator == 24.0
    signal = scored.rollouts[0].signal
    assert signal.student_topk_ids is not None and signal.student_topk_ids.shape == (12, 4)
    assert not signal.covers(SignalSpec(student_topk=4)), "the teacher has to run"


def test_a_sequence_longer_than_the_budget_is_rehearsed_alone(recipe: dict[str, Any]) -> None:
    recipe["training"]["tokens_per_micro_batch"] = 5
    scored = largest_update(config_from_dict(recipe), SignalSpec(), vocabulary=15)
    assert len(scored.rollouts) == 1


def test_the_estimate_and_the_measured_peak_are_told(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    events: list[Event] = []
    recipe["training"]["steps"] = 2
    api.train(config_from_dict(recipe), runs=tmp_path, listener=events.append)
    notes = [e.text for e in events if isinstance(e, Note) and e.text.startswith("memory:")]
    sentence = (
        r"memory: the run needs about \d+\.\d GiB, \d+\.\d GiB are free for it; a trial of its "
        r"largest update brought this process to \d+\.\d GiB"
    )
    assert len(notes) == 1 and re.fullmatch(sentence, notes[0])


def test_the_estimate_counts_four_copies_of_the_students_weights(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    config = config_from_dict(recipe)
    with open_world(CPU) as world:
        run, student = assemble(config, tmp_path, world, lambda event: None)
        estimate = estimate_memory(config, student, run.module)
        numbers = sum(p.numel() for p in run.module.student_model.parameters())
        del run
    # Weights, the copy that rolls out, and AdamW's two moments; gradients come on top.
    assert estimate.total >= 4 * 4 * numbers
    assert any(line.startswith("gradients") for line in estimate.lines)


def test_memory_is_measured_in_bytes() -> None:
    before = peak_memory(CPU)
    held = torch.ones(2**26)  # 256 MiB, written to
    assert peak_memory(CPU) >= before
    assert peak_memory(CPU) > held.numel() * 4
    assert memory_limit(CPU) > peak_memory(CPU) // 2
