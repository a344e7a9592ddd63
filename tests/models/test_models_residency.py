"""Frozen models that take turns on a device, shown without one: what is off stage holds no
numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tandem.models.residency import Guest, Stage
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment

CPU = torch.device("cpu")
A = Alignment(size=30, end_id=1, student_end_ids=(1,), teacher_end_ids=(2,))
MakeModel = Callable[..., PreTrainedModel]


class Device:
    """A device that is no memory of the host: there the models' numbers are, here they are NaN."""

    def __init__(self) -> None:
        self.real: dict[int, Tensor] = {}
        self.copies = 0

    def take(self, model: nn.Module) -> None:
        for tensor in (*model.parameters(), *model.buffers()):
            self.real[tensor.data_ptr()] = tensor.data.clone()
            tensor.data.fill_(torch.nan)

    def copy(self, host: Tensor, device: torch.device) -> Tensor:
        del device
        self.copies += 1
        return self.real[host.data_ptr()].clone()


@pytest.fixture
def staged(make_model: MakeModel) -> tuple[dict[str, Speaker], dict[str, Speaker], Stage, Device]:
    """Two teachers as they are, and the same two sharing a device."""

    def models() -> dict[str, PreTrainedModel]:
        return {"math": make_model(), "code": make_model("llama", tie_word_embeddings=True)}

    ends: dict[str, Any] = {"own_end_ids": (2,), "alignment": A}
    free = {name: Speaker(model, **ends) for name, model in models().items()}
    device, guests = Device(), models()
    for model in guests.values():
        device.take(model)
    stage = Stage(guests, device=CPU, copy=device.copy)
    shared: dict[str, Speaker] = {
        name: Guest(model, **ends, stage=stage, name=name) for name, model in guests.items()
    }
    return free, shared, stage, device


IDS = torch.tensor([[3, 4, 5, 6]])
POSITIONS = torch.arange(4)[None]


def numbers_of(model: nn.Module) -> int:
    return sum(bool(t.isfinite().all()) for t in (*model.parameters(), *model.buffers()))


def test_a_guest_computes_what_it_would_alone_and_only_one_is_there(staged: Any) -> None:
    free, shared, stage, _ = staged
    assert stage.current is None
    assert all(numbers_of(guest.model) == 0 for guest in shared.values())
    for name in ("math", "code", "code", "math"):
        hidden = shared[name].hidden(IDS, POSITIONS)
        assert torch.equal(hidden, free[name].hidden(IDS, POSITIONS))
        assert torch.equal(shared[name].logits(hidden), free[name].logits(hidden))
        assert stage.current == name
        other = "code" if name == "math" else "math"
        assert numbers_of(shared[other].model) == 0, "the other one has left"


def test_a_recorded_state_brings_its_teacher_for_the_head_alone(staged: Any) -> None:
    free, shared, stage, _ = staged
    hidden = free["math"].hidden(IDS, POSITIONS)
    shared["code"].hidden(IDS, POSITIONS)
    assert torch.equal(shared["math"].logits(hidden), free["math"].logits(hidden))
    assert stage.current == "math"


def test_whoever_stays_is_not_copied_again(staged: Any) -> None:
    _, shared, _, device = staged
    shared["math"].hidden(IDS, POSITIONS)
    once = device.copies
    shared["math"].hidden(IDS, POSITIONS)
    assert device.copies == once > 0
    shared["code"].hidden(IDS, POSITIONS)
    assert device.copies > once


def test_what_is_brought_while_decoding_serves_training_too(staged: Any) -> None:
    _, shared, _, _ = staged
    with torch.inference_mode():
        shared["math"].hidden(IDS, POSITIONS)
    weight = next(shared["math"].model.parameters())
    assert not weight.is_inference() and not weight.data.is_inference()
    scale = torch.ones((), requires_grad=True)
    hidden = shared["math"].hidden(IDS, POSITIONS)
    (shared["math"].logits(hidden)[..., :1] * scale).sum().backward()
    assert scale.grad is not None and bool(scale.grad.isfinite())


def test_a_guest_says_it_is_where_it_computes(make_model: MakeModel) -> None:
    model = make_model()
    stage = Stage({"math": model}, device=torch.device("meta"))
    guest = Guest(model, own_end_ids=(2,), alignment=A, stage=stage, name="math")
    assert guest.device == torch.device("meta") and next(model.parameters()).device == CPU


def test_on_a_cpu_nothing_moves(make_model: MakeModel) -> None:
    models = {"math": make_model(), "code": make_model("llama")}
    places = [p.data_ptr() for model in models.values() for p in model.parameters()]
    stage = Stage(models, device=CPU)
    for name in ("math", "code", "math"):
        stage.bring(name)
        assert [p.data_ptr() for m in models.values() for p in m.parameters()] == places
