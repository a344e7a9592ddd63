"""The loop: roll out → score → update → log → evaluate → save."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from torch import nn
from torch.optim import Optimizer

from tandem.rollout.engine import Engine
from tandem.training.checkpoint import save_checkpoint
from tandem.training.config import RunConfig
from tandem.training.events import Evaluated, Listener, Phase, PhaseName, Saved, StepDone
from tandem.training.metrics import rollout_sums
from tandem.training.optimizer import learning_rate, set_learning_rate
from tandem.training.parallel import World, copy_weights
from tandem.training.requests import RequestSource
from tandem.training.signals import stop_on_signals
from tandem.training.step import StepModule, recorded
from tandem.training.tracking import LineLog, Tracker
from tandem.training.update import accumulate_gradient, apply_gradient, score
from tandem.types import Clock, Rollout, Sampling

Evaluate = Callable[[int, Callable[[int, int], None]], dict[str, float]]

# Responses of each step that samples.jsonl keeps, evenly spaced: neighbours share a prompt.
SAMPLES_KEPT = 4


@dataclass(slots=True)
class Run:
    """Everything the loop works with.

    module: the sharded step module. rollout_student: the whole copy that `engine` decodes with.
    evaluate: (step, progress) to the `eval/...` keys; None where the recipe has no evaluation.
    decode: a rollout's text.
    """

    config: RunConfig
    folder: Path
    world: World
    module: StepModule
    optimizer: Optimizer
    rollout_student: nn.Module
    engine: Engine
    requests: RequestSource
    decode: Callable[[Rollout], str]
    evaluate: Evaluate | None
    tracker: Tracker
    listener: Listener


@dataclass(frozen=True, slots=True)
class LoopEnd:
    """How far the loop came, whether it was asked to stop, and the last value of each metric."""

    step: int
    interrupted: bool
    metrics: dict[str, float]


def train_loop(run: Run, *, start: int) -> LoopEnd:
    """Train from after `start` steps to the end of the recipe, or until asked to stop.

    Raises NotFinite where a loss or gradient is not finite; what was saved before stays.
    """
    config, world, module = run.config, run.world, run.module
    rollout, training = config.rollout, config.training
    objective, behaviour = config.objective, config.behaviour
    parameters = [p for p in module.parameters() if p.requires_grad]
    sampling = Sampling(max_new_tokens=rollout.max_new_tokens)
    metrics_log = LineLog(run.folder / "metrics.jsonl")
    samples_log = LineLog(run.folder / "samples.jsonl")
    # A resumed run goes on with what its log already says.
    latest: dict[str, float] = metrics_log.latest()
    interrupted, step = False, start
    copy_weights(module.student_model, run.rollout_student)

    with stop_on_signals() as stop:
        if run.evaluate is not None and start == 0:
            found = run.evaluate(0, _progress(run, 0, "evaluate"))
            latest |= _record(run, metrics_log, 0, found)
            run.listener(Evaluated(0, found))
            interrupted = bool(world.max(stop.asked))

        while step < training.steps and not interrupted:
            clock, began = Clock(step, training.steps), perf_counter()

            # Roll out: fresh responses by the current student, under the behaviour of this step.
            requests = run.requests(step, world)
            report = partial(_rolling, run, step + 1)
            report(len(requests), 0, 0)
            rollouts = run.engine.generate(
                requests,
                behaviour=behaviour,
                clock=clock,
                sampling=sampling,
                seed=config.seed,
                record=recorded(objective),
                policy_version=step,
                on_progress=partial(report, len(requests)),
            )
            rolled_out = perf_counter()

            # Score: which tokens count, how much each, and the one divisor of the step.
            scored = score(
                rollouts,
                module=module,
                objective=objective,
                clock=clock,
                seed=config.seed,
                drop_truncated=rollout.truncated == "drop",
                token_budget=training.tokens_per_micro_batch,
                world=world,
            )

            # Update: the gradient of the whole step, then one move.
            rate = learning_rate(config.optimizer, step=step, total_steps=training.steps)
            set_learning_rate(run.optimizer, rate)
            values = accumulate_gradient(
                module,
                scored,
                objective=objective,
                clock=clock,
                token_budget=training.tokens_per_micro_batch,
                world=world,
                on_progress=_progress(run, step + 1, "update"),
            )
            norm = apply_gradient(
                run.optimizer,
                parameters,
                clip_norm=config.optimizer.clip_norm,
                loss=values.get("loss", 0.0),
                step=step + 1,
            )
            copy_weights(module.student_model, run.rollout_student)
            ended = perf_counter()
            step += 1

            # Log (the line is written once, below, with what the evaluation adds to it).
            values = step_metrics(run, rollouts, values, clock=clock, seconds=rolled_out - began)
            values |= {
                "train/grad_norm": norm,
                "train/lr": rate,
                "time/rollout": rolled_out - began,
                "time/train": ended - rolled_out,
                "time/step": ended - began,
            }

            # Evaluate, and only then write: a step stands in the log once.
            last = step == training.steps
            found: dict[str, float] = {}
            evaluation = config.evaluation
            if run.evaluate is not None and evaluation and (last or step % evaluation.every == 0):
                found = run.evaluate(step, _progress(run, step, "evaluate"))
            latest |= _record(run, metrics_log, step, values | found)
            _write_samples(run, samples_log, step, rollouts)
            run.listener(StepDone(step, training.steps, values))
            if found:
                run.listener(Evaluated(step, found))

            # Save.
            interrupted = bool(world.max(stop.asked))
            if last or interrupted or step % training.save_every == 0:
                path = save_checkpoint(
                    run.folder / "checkpoints",
                    student=module.student_model,
                    optimizer=run.optimizer,
                    step=step,
                    keep_last=training.keep_last,
                    world=world,
                )
                run.listener(Saved(step, path))
    return LoopEnd(step=step, interrupted=interrupted and step < training.steps, metrics=latest)


def step_metrics(
    run: Run,
    rollouts: list[Rollout],
    update: dict[str, float],
    *,
    clock: Clock,
    seconds: float,
) -> dict[str, float]:
    """The rollout/... and train/... keys of one step over all ranks.

    update: what the update measured. seconds: how long the roll-out took.
    """
    behaviour, world = run.config.behaviour, run.world
    values = world.total(rollout_sums(rollouts, behaviour=behaviour, clock=clock)).means()
    for name, value in update.items():
        values[f"{'rollout' if name == 'teacher_entropy' else 'train'}/{name}"] = value
    values.setdefault("train/loss", 0.0)
    tokens = float(world.sum(torch.tensor(float(sum(map(len, rollouts))))))
    values["rollout/tokens_per_second"] = tokens / max(seconds, 1e-9)
    values["rollout/prompts_dropped"] = float(run.requests.dropped)
    budget = behaviour.budget_at(clock)
    if budget is not None:
        values["rollout/budget"] = budget
    return values


def _rolling(run: Run, step: int, total: int, tokens: int, sequences: int) -> None:
    del tokens
    run.listener(Phase(step, "roll out", sequences, total))


def _progress(run: Run, step: int, name: PhaseName) -> Callable[[int, int], None]:
    return lambda done, total: run.listener(Phase(step, name, done, total))


def _record(run: Run, log: LineLog, step: int, values: dict[str, float]) -> dict[str, float]:
    if run.world.first:
        log.write(step, values)
        run.tracker.log(step, values)
    return values


def _write_samples(run: Run, log: LineLog, step: int, rollouts: list[Rollout]) -> None:
    if not run.world.first:
        return
    for rollout in rollouts[:: max(1, len(rollouts) // SAMPLES_KEPT)][:SAMPLES_KEPT]:
        stats = {name: float(values.mean()) for name, values in rollout.stats.items()}
        sample = {
            "id": rollout.request.id,
            "prompt": run.requests.prompt_of(rollout.request).text,
            "completion": run.decode(rollout),
            "ended": rollout.ended,
            "tokens": len(rollout),
            **stats,
        }
        log.write(step, sample)
