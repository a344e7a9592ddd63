"""Several processes do what one does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from two_ranks import CASES, FAST

from tandem.training.config import config_from_dict, dump_config
from tandem.training.parallel import open_world, resolve_device, share
from tandem.training.rehearsal import Estimate, rehearse
from tandem.wiring import assemble

SMALL = Estimate(total=1, cache_bytes=1, lines=())


# Ranks that disagree on whom to wait for wait for ever.
PATIENCE = 120

NAMES = [case.name for case in CASES]
SLOW = [name for name in NAMES if name not in FAST]


@cache
def results(names: tuple[str, ...]) -> dict[str, Any]:
    """These cases by one process and by two gloo ranks."""
    script = Path(__file__).with_name("two_ranks.py")
    command = [sys.executable, str(script), *names]
    # In a session of its own: its ranks are to end with it.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, errors[-2000:]
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("name", FAST)
def test_two_ranks_equal_one_process_to_six_digits(name: str) -> None:
    found = results(tuple(FAST))
    assert_same_step(found["one"][name], found["two"][name])
    assert found["one"][name]["norm"] > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_two_ranks_equal_one_process_in_every_other_case(name: str) -> None:
    found = results(tuple(SLOW))
    assert_same_step(found["one"][name], found["two"][name])


def assert_same_step(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert two["norm"] == pytest.approx(one["norm"], rel=1e-6, abs=1e-9)
    assert two["plan"] == pytest.approx(one["plan"], rel=1e-6)
    assert two["means"].keys() == one["means"].keys()
    for key, value in one["means"].items():
        assert two["means"][key] == pytest.approx(value, rel=1e-6, abs=1e-9), key
    assert two["weights"].keys() == one["weights"].keys()
    for key, value in one["weights"].items():
        # After AdamW's first step, which amplifies a gradient of 1e-8 to the size of the rate.
        assert two["weights"][key] == pytest.approx(value, rel=1e-5, abs=1e-5), key


@pytest.mark.slow
def test_the_cases_differ() -> None:
    norms = {name: step["norm"] for name, step in results(tuple(SLOW))["one"].items()}
    empty = [norms.pop(name) for name in ("both empty", "a plan with a sweep, both empty")]
    assert empty == [0.0, 0.0] and min(norms.values()) > 1e-2


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
        parts = [share(7, replace(world, rank=rank, size=3)) for rank in range(3)]
    assert sorted(i for part in parts for i in part) == list(range(7))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_refused() -> None:
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="device is 'cuda', but PyTorch finds no CUDA device"):
        resolve_device("cuda")


def test_a_bfloat16_student_keeps_its_weights_in_fp32(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe["student"]["dtype"] = "bfloat16"
    config = config_from_dict(recipe)
    with open_world(torch.device("cpu")) as world:
        run, _ = assemble(config, tmp_path, world, lambda event: None)
        seen: list[torch.dtype] = []
        norm = run.module.student_model.get_submodule("model.norm")
        norm.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        rehearse(run.module, run.optimizer, config=config, estimate=SMALL, world=world)
        weights = {p.dtype for p in run.module.student_model.parameters()}
        moments = {state["exp_avg"].dtype for state in run.optimizer.state.values()}
        del run
    assert weights == moments == {torch.float32}, "an update smaller than a bf16 step must count"
    assert set(seen) == {torch.bfloat16}, "but it computes in its own dtype"


@pytest.mark.slow
def test_two_processes_under_torchrun_train_as_one_does_and_one_goes_on_where_two_stopped(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_config(config_from_dict(recipe)))
    (tmp_path / "go.py").write_text(
        "import sys\n"
        "from tandem.run import train\n"
        f"train({str(tmp_path / 'recipe.yaml')!r}, runs=sys.argv[1], resume=True)\n"
    )

    def run(runs: str, *launcher: str) -> None:
        command = [sys.executable, *launcher, str(tmp_path / "go.py"), str(tmp_path / runs)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]

    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run("one")
    run("two", *torchrun)
    assert_same_run(tmp_path / "one" / "tiny", tmp_path / "two" / "tiny")
    # Half the way by two, the rest by one: a checkpoint knows nothing of ranks.
    shutil.copytree(tmp_path / "two", tmp_path / "mixed")
    shutil.rmtree(tmp_path / "mixed" / "tiny" / "checkpoints" / "step-000006")
    shutil.rmtree(tmp_path / "mixed" / "tiny" / "final")
    run("mixed")
    assert_same_run(tmp_path / "one" / "tiny", tmp_path / "mixed" / "tiny")


def assert_same_run(a: Path, b: Path) -> None:
    rows_a, rows_b = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (a, b)
    )
    assert [row["step"] for row in rows_a] == [row["step"] for row in rows_b] == list(range(7))
    for row_a, row_b in zip(rows_a, rows_b, strict=True):
        for key in row_a:
            if not key.startswith(("time/", "rollout/tokens_per_second")):
                assert row_b[key] == pytest.approx(row_a[key], rel=1e-5, abs=1e-6), key
    weights_a, weights_b = (load_file(f / "final" / "model.safetensors") for f in (a, b))
    for name, weight in weights_a.items():
        assert torch.allclose(weight, weights_b[name], rtol=1e-5, atol=1e-5), name
