"""One step by several gloo ranks and by one process, as a script of test_parallel.py.

    python tests/training/two_ranks.py "tied" "uneven"

Prints one JSON object per case and number of ranks: loss, gradient norm, means, and the weights
after the update, gathered. Ranks are forked before anything starts a thread.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sweep_cases import Selective, make_cast
from torch import nn
from training_tiny import ALIGNMENT, CLOCK, roll_out, step_module, tiny_model, tiny_pair

from tandem.behaviours import TrustRegionBlend
from tandem.models.speaker import Speaker
from tandem.objectives import Objective, ReverseKL
from tandem.objectives.base import Plan, StepTokens
from tandem.training.config import OptimizerSettings
from tandem.training.optimizer import make_optimizer
from tandem.training.parallel import World, copy_weights, open_world, shard
from tandem.training.step import StepModule, decoder_layers, recompute_layers
from tandem.training.update import accumulate_gradient, apply_gradient, score
from tandem.types import Rollout, SignalSpec, TeacherSignal

BLEND = TrustRegionBlend(budget=0.05, warmup_steps=4)


@dataclass(frozen=True)
class Case:
    """counts: rollouts of each of two ranks. budget: padded tokens of a micro-batch. several: two
    teachers and a reference. forgotten: of the second rank's rollouts nothing is on record."""

    name: str
    objective: Objective
    counts: tuple[int, int] = (3, 3)
    tied: bool = False
    recompute: bool = False
    teacher_dtype: torch.dtype = torch.float32
    blend: bool = False
    several: bool = False
    budget: int = 30
    forgotten: bool = False


class Likely(Selective):
    """The same loss of tokens that the teacher finds unlikely, but without the student's part of
    the sweep: there is one only where something is missing, on whichever rank."""

    def planned(self) -> SignalSpec:
        return SignalSpec(sampled=True)

    def plan(self, step: StepTokens) -> Plan:
        logp, gate = step.signal.sampled_logp, step.tokens.gate
        assert logp is not None and gate is not None
        everything = step.gather(logp)
        unlikely = logp <= everything.median() if len(everything) else logp <= 0
        weight = (unlikely & (gate < 0.5)).float()
        return Plan(weight=weight, denominator=float(weight.sum()))


FULL, TOP = ReverseKL(support="full"), ReverseKL(top_k=4)
CASES = [
    Case("untied", FULL),
    Case("tied", FULL, tied=True),
    Case("tied, recomputed", FULL, tied=True, recompute=True),
    Case("recorded top-k", TOP, blend=True),
    Case("fresh top-k, bf16 teacher", TOP, teacher_dtype=torch.bfloat16),
    Case("uneven", FULL, counts=(5, 1), tied=True),
    Case("one rank empty", TOP, counts=(4, 0), tied=True),
    Case("both empty", FULL, counts=(0, 0)),
    Case("a plan with a sweep", Selective(top_k=4)),
    Case("a plan with a sweep, one rank empty", Selective(top_k=4), counts=(0, 4)),
    Case("a plan with a sweep, all on record", Selective(top_k=4), counts=(5, 1), blend=True),
    Case("a plan with a sweep, both empty", Selective(top_k=4), counts=(0, 0)),
    Case("one rank on record, the other not", Likely(top_k=4), blend=True, forgotten=True),
    Case("one rank to be swept, the other empty", Likely(top_k=4), counts=(4, 0)),
    Case("several teachers", FULL, counts=(1, 4), several=True),
    Case("several teachers, a plan with a sweep", Selective(top_k=4), several=True),
]


# Those that a change of the update is likely to break first.
FAST = ("uneven", "one rank to be swept, the other empty", "one rank on record, the other not")


def made(case: Case) -> tuple[StepModule, list[Rollout]]:
    """The step module and the rollouts of both ranks."""
    count = sum(case.counts)
    if case.several:
        cast = make_cast()
        return cast.module(), cast.roll_out(case.objective, count=count)
    student, teacher = tiny_pair(tied=case.tied, teacher_dtype=case.teacher_dtype)
    options: dict[str, Any] = {"behaviour": BLEND} if case.blend else {}
    rollouts: list[Rollout] = []
    if count:
        rollouts = roll_out(student, teacher, case.objective, count=count, **options)
    if case.forgotten:
        rollouts[case.counts[0] :] = [
            replace(r, signal=TeacherSignal(student_topk_ids=r.signal.student_topk_ids))
            for r in rollouts[case.counts[0] :]
        ]
    if case.recompute:
        recompute_layers(student.model)
    return step_module(student, teacher), rollouts


def run_case(case: Case, world: World) -> dict[str, Any]:
    module, rollouts = made(case)
    student, own = module.student, rollouts
    if world.size == 2:
        first = case.counts[0]
        own = rollouts[:first] if world.rank == 0 else rollouts[first:]
    shard(
        module,
        layers=decoder_layers(student.model),
        whole=module.frozen_models,
        compute_dtype=torch.float32,
        world=world,
        methods=["sweep"],
    )
    parameters = list(student.model.parameters())
    optimizer = make_optimizer(parameters, OptimizerSettings(lr=1e-2))
    scored = score(
        own,
        module=module,
        objective=case.objective,
        clock=CLOCK,
        seed=3,
        drop_truncated=False,
        token_budget=case.budget,
        world=world,
    )
    means = accumulate_gradient(
        module,
        scored,
        objective=case.objective,
        clock=CLOCK,
        token_budget=case.budget,
        world=world,
        on_progress=lambda done, total: None,
    )
    loss = means.get("loss", 0.0)
    norm = apply_gradient(
        optimizer, parameters, clip_norm=0.5, loss=loss, divisor=scored.denominator, step=1
    )
    whole = Speaker(tiny_model(99, rows=40, tied=case.tied), own_end_ids=(1,), alignment=ALIGNMENT)
    copy_weights(student.model, whole.model)
    planned = torch.cat([torch.zeros(0), *scored.weights]).double().sum()
    plan = [scored.denominator, float(world.sum(planned))]
    return {"norm": norm, "means": means, "plan": plan, "weights": checked(whole.model)}


def checked(model: nn.Module) -> dict[str, list[float]]:
    """Enough of every parameter to tell two models apart: its sum of squares and some entries."""
    return {
        name: [float(p.double().pow(2).sum()), *p.detach().flatten()[::37].tolist()]
        for name, p in model.named_parameters()
    }


def work(cases: list[Case], rank: int, size: int, port: int, output: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with open_world(torch.device("cpu")) as world:
        results = {case.name: run_case(case, world) for case in cases}
        if world.first:
            output.write_text(json.dumps(results))


def main(names: list[str]) -> None:
    cases = [case for case in CASES if case.name in names]
    assert len(cases) == len(names), f"which cases are {names}?"
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        output = Path(folder) / "two.json"
        ranks: list[int] = []
        for rank in range(2):
            process = os.fork()
            if process == 0:
                work(cases, rank, 2, port, output)
                sys.stdout.flush()
                os._exit(0)
            ranks.append(process)
        failed = [os.waitpid(process, 0)[1] for process in ranks]
        assert failed == [0, 0], f"ranks ended with {failed}"
        two = json.loads(output.read_text())
    with open_world(torch.device("cpu")) as world:
        one = {case.name: run_case(case, world) for case in cases}
    print(json.dumps({"one": one, "two": two}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
