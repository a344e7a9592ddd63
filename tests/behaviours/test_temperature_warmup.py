from __future__ import annotations

import pytest
import torch
from laws import law, pair, probabilities

from oracles import behaviours as oracle
from tandem.behaviours import TemperatureWarmup
from tandem.types import Clock


def test_the_temperature_rises_linearly_to_1_by_hand() -> None:
    warmup = TemperatureWarmup(start_temperature=0.8, warmup_steps=4)
    temperatures = [warmup.temperature(Clock(step=k, total_steps=10)) for k in range(6)]
    assert temperatures == pytest.approx([0.8, 0.85, 0.9, 0.95, 1.0, 1.0], abs=1e-15)
    assert temperatures[4:] == [1.0, 1.0]


def test_by_hand_temperature_one_half_squares_the_odds() -> None:
    p = torch.tensor([[0.75, 0.25, 0.0]]).log()
    warmup = TemperatureWarmup(start_temperature=0.5, warmup_steps=10)
    assert law(warmup, p, None).logp.exp()[0].tolist() == pytest.approx([0.9, 0.1, 0.0], abs=1e-6)


@pytest.mark.parametrize("start, step", [(0.8, 0), (0.5, 7), (1.5, 3)])
def test_the_law_is_the_normalised_power_of_the_student(start: float, step: int) -> None:
    p, _ = pair(1)
    temperature = start + (1 - start) * step / 10
    warmup = TemperatureWarmup(start_temperature=start, warmup_steps=10)
    actual = probabilities(law(warmup, p, None, step=step).logp)
    for mu, row in zip(actual, probabilities(p), strict=True):
        assert mu == pytest.approx(oracle.tempered(row, temperature), abs=1e-6)


@pytest.mark.parametrize("start, step", [(0.8, 10), (0.8, 11), (1.0, 0)])
def test_at_temperature_1_the_law_is_the_students_own_tensor(start: float, step: int) -> None:
    p, _ = pair(2)
    warmup = TemperatureWarmup(start_temperature=start, warmup_steps=10)
    assert law(warmup, p, None, step=step).logp is p
    assert warmup.is_student(Clock(step=step, total_steps=20))


def test_while_it_is_sharpened_it_is_not_the_student_though_the_student_speaks() -> None:
    warmup = TemperatureWarmup(start_temperature=0.8, warmup_steps=10)
    assert not warmup.is_student(Clock(step=9, total_steps=20))
