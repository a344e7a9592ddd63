"""Several processes do what one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from two_ranks import CASES

from tandem.training.parallel import open_world, resolve_device, share


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """Every case by one process and by two gloo ranks."""
    script = Path(__file__).with_name("two_ranks.py")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_two_ranks_equal_one_process_to_six_digits(results: dict[str, Any], name: str) -> None:
    one, two = results["one"][name], results["two"][name]
    assert two["norm"] == pytest.approx(one["norm"], rel=1e-6, abs=1e-9)
    assert two["means"].keys() == one["means"].keys()
    for key, value in one["means"].items():
        assert two["means"][key] == pytest.approx(value, rel=1e-6, abs=1e-9), key
    assert two["weights"].keys() == one["weights"].keys()
    for key, value in one["weights"].items():
        # After AdamW's first step, which amplifies a gradient of 1e-8 to the size of the rate.
        assert two["weights"][key] == pytest.approx(value, rel=1e-5, abs=1e-5), key


def test_the_cases_differ(results: dict[str, Any]) -> None:
    norms = [results["one"][case.name]["norm"] for case in CASES if sum(case.counts)]
    assert min(norms) > 1e-2
    assert results["one"]["both empty"]["norm"] == 0.0


def test_a_world_of_one_opens_again_and_again() -> None:
    for _ in range(3):
        with open_world(torch.device("cpu")) as world:
            assert (world.rank, world.size, world.first) == (0, 1, True)
            assert float(world.sum(torch.tensor(2.5))) == 2.5
            assert world.gather("a") == ["a"]


def test_a_world_that_fails_leaves_no_group_behind() -> None:
    with pytest.raises(ZeroDivisionError), open_world(torch.device("cpu")):
        raise ZeroDivisionError
    assert not torch.distributed.is_initialized()


def test_every_index_belongs_to_exactly_one_rank() -> None:
    with open_world(torch.device("cpu")) as world:
        from dataclasses import replace

        parts = [share(7, replace(world, rank=rank, size=3)) for rank in range(3)]
    assert sorted(i for part in parts for i in part) == list(range(7))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_refused() -> None:
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="device is 'cuda', but PyTorch finds no CUDA device"):
        resolve_device("cuda")
