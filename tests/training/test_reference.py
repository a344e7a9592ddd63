"""The reference: who needs one, what it reads, and that it stays as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tandem import run as api
from tandem.objectives import ReverseKL, TokenLoss
from tandem.training.config import config_from_dict
from tandem.training.events import Event, Note
from tandem.training.parallel import open_world
from tandem.training.rehearsal import Estimate
from tandem.types import SignalSpec, TeacherSignal
from tandem.wiring import assemble, estimate_memory

CPU = torch.device("cpu")


class Compares(ReverseKL):
    """The student's distance to its reference on the drawn token, as a loss that needs one."""

    kind: Literal["compares"] = "compares"  # pyright: ignore[reportIncompatibleVariableOverride]

    def needs(self) -> SignalSpec:
        return super().needs() | SignalSpec(reference=True)

    def loss(self, logits: Tensor, *, signal: TeacherSignal, **known: Any) -> TokenLoss:
        result = super().loss(logits, signal=signal, **known)
        assert signal.reference_logp is not None
        drift = known["tokens"].student_logp - signal.reference_logp
        return TokenLoss(
            result.surrogate, result.value, result.metrics | {"drift": (drift.sum(), drift.numel())}
        )


def test_an_objective_without_its_reference_is_refused(recipe: dict[str, Any]) -> None:
    said = (
        "objective compares compares with a reference model, but the recipe names none: add "
        "reference, such as the student's own path"
    )
    with pytest.raises(ValueError) as raised:
        config_from_dict(recipe | {"objective": Compares()})
    assert str(raised.value) == said
    with pytest.raises(ValueError) as raised:
        config_from_dict(recipe | {"phases": [{"until_step": 2, "objective": Compares()}]})
    assert str(raised.value) == said


def test_the_reference_reads_the_students_prompt_and_stays_as_it_was(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    compared = recipe | {
        "objective": Compares(top_k=4),
        "reference": recipe["student"],
        # The teacher reads something else; the reference must not.
        "teacher": recipe["teacher"] | {"template": "0+{problem}"},
        "training": {"steps": 2},
        "evaluation": None,
    }
    result = api.train(config_from_dict(compared), runs=tmp_path)
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    drift = [json.loads(line)["train/drift"] for line in lines]
    # At the first step the student is its reference; then it has moved, and the reference has not.
    assert abs(drift[0]) < 1e-5 and abs(drift[1]) > 1e-3


def test_a_reference_that_nobody_reads_is_a_warning(recipe: dict[str, Any], tmp_path: Path) -> None:
    notes: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note) and event.warning:
            notes.append(event.text)

    idle = recipe | {"reference": recipe["student"], "evaluation": None, "training": {"steps": 2}}
    api.train(config_from_dict(idle), runs=tmp_path, listener=listen)
    assert notes == [
        "reference: no objective of the recipe compares with it: leave it out, it only takes memory"
    ]


def test_memory_counts_the_reference(recipe: dict[str, Any], tmp_path: Path) -> None:
    config = config_from_dict(recipe | {"reference": recipe["student"]})
    with open_world(CPU) as world:
        run, student = assemble(config, tmp_path, world, lambda event: None)
        with_it: Estimate = estimate_memory(config, student, run.module)
        del run
    assert any(line.startswith("reference weights") for line in with_it.lines)
