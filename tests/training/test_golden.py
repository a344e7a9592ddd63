"""Ten steps on the CPU, pinned: a refactor must not move them."""

from __future__ import annotations

import json

import pytest
from golden_run import GOLDEN, pair_digest, ten_steps

# Measured on these ten steps: two threads instead of one, other micro-batches, other slots or the
# eager attention move a number by at most 1e-5 of itself, since no token is drawn differently.
# Another BLAS differs as those do. Any change of mathematics that deserves the name moves
# something by more than 1e-4: a token counted twice moves the loss by 1e-2.
TOLERANCE = 1e-4


def test_ten_steps_give_the_golden_numbers() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["pair"] == pair_digest(), (
        "the embedded pair has changed: run tests/training/golden_run.py and commit its numbers"
    )
    found = ten_steps()
    assert len(found) == len(golden["steps"]) == 10
    for step, (row, expected) in enumerate(zip(found, golden["steps"], strict=True), start=1):
        for key, value in expected.items():
            assert row[key] == pytest.approx(value, rel=TOLERANCE, abs=1e-9), (step, key)


def test_golden_numbers_come_from_a_run_that_learns() -> None:
    steps = json.loads(GOLDEN.read_text())["steps"]
    divergence = [row["train/reverse_kl"] for row in steps]
    assert sum(divergence[-3:]) < 0.8 * sum(divergence[:3])
