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

from tandem.rollout.protocol import RolloutEngine
from tandem.rollout.refusal import naming_prompts
from tandem.rollout.tally import Tally
from tandem.training.checkpoint import save_checkpoint
from tandem.training.completions import Completions
from tandem.training.config import RunConfig
from tandem.training.events import Evaluated, Listener, Phase, PhaseName, Saved, StepDone
from tandem.training.metrics import rollout_sums
from tandem.training.optimizer import reset_state, set_learning_rate
from tandem.training.parallel import World, copy_weights
from tandem.training.phases import Moment
from tandem.training.requests import RequestSource
from tandem.training.signals import stop_on_signals
from tandem.training.step import StepModule, recorded
from tandem.training.tracking import LineLog, Tracker
from tandem.training.update import accumulate_gradient, apply_gradient, score
from tandem.types import Rollout, Sampling

Evaluate = Callable[[int, Callable[[int, int], None]], dict[str, float]]

# Responses of each step that samples.jsonl keeps, evenly spaced: neighbours share a prompt.
SAMPLES_KEPT = 4


@dataclass(slots=True)
class Run:
    """Everything the loop works with.

    completions: fills in the tokens that a behaviour gives.
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
    engine: RolloutEngine
    requests: RequestSource
    completions: Completions
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


@dataclass(frozen=True, slots=True)
class Rolled:
    """Fresh responses, the step after which they were made, under what, and how long it took."""

    rollouts: list[Rollout]
    step: int
    moment: Moment
    seconds: float
    tally: Tally


def train_loop(run: Run, *, start: int) -> LoopEnd:
    """Train from after `start` steps to the end of the recipe, or until asked to stop.

    Steps that share their responses are begun and finished together: only between two roll-outs
    does the run save, or stop. Raises NotFinite where a loss or gradient is not finite; what was
    saved before stays.
    """
    config, world, module = run.config, run.world, run.module
    training, line = config.training, config.timeline()
    parameters = [p for p in module.parameters() if p.requires_grad]
    metrics_log = LineLog(run.folder / "metrics.jsonl")
    samples_log = LineLog(run.folder / "samples.jsonl")
    # A resumed run goes on with what its log already says.
    latest: dict[str, float] = metrics_log.latest()
    interrupted, step = False, start
    copy_weights(module.student_model, run.rollout_student)
    run.engine.refresh()

    with stop_on_signals() as stop:
        if run.evaluate is not None and start == 0:
            found = run.evaluate(0, _progress(run, 0, "evaluate"))
            latest |= _record(run, metrics_log, 0, found)
            run.listener(Evaluated(0, found))
            interrupted = bool(world.max(stop.asked))

        while step < training.steps and not interrupted:
            # Roll out: fresh responses by the current student, under the behaviour of this step.
            rolled = roll_out(run, line.at(step), step)
            responses, waited = rolled.rollouts, rolled.seconds

            for _ in range(training.updates_per_rollout):
                now, began = line.at(step), perf_counter()

                # Score: which tokens count, how much each, and the one divisor of the step.
                scored = score(
                    responses,
                    module=module,
                    objective=now.objective,
                    clock=now.clock,
                    seed=config.seed,
                    drop_truncated=config.rollout.truncated == "drop",
                    token_budget=training.tokens_per_micro_batch,
                    world=world,
                    reused=training.updates_per_rollout > 1,
                )
                responses = scored.rollouts  # with what the teacher said, which does not age

                # Update: the gradient of the whole step, then one move.
                if now.resets:
                    reset_state(run.optimizer)
                set_learning_rate(run.optimizer, now.rate)
                values = accumulate_gradient(
                    module,
                    scored,
                    objective=now.objective,
                    clock=now.clock,
                    token_budget=training.tokens_per_micro_batch,
                    world=world,
                    on_progress=_progress(run, step + 1, "update"),
                )
                norm = apply_gradient(
                    run.optimizer,
                    parameters,
                    clip_norm=config.optimizer.clip_norm,
                    loss=values.get("loss", 0.0),
                    divisor=scored.denominator,
                    step=step + 1,
                )
                copy_weights(module.student_model, run.rollout_student)
                run.engine.refresh()
                trained = perf_counter() - began

                # Log (the line is written once, below, with what the evaluation adds to it).
                values = step_metrics(run, rolled, values, step=step) | {
                    "train/grad_norm": norm,
                    "train/lr": now.rate,
                    "time/rollout": waited,
                    "time/train": trained,
                    "time/step": waited + trained,
                }
                step, waited = step + 1, 0.0

                # Evaluate, and only then write: a step stands in the log once.
                found = _evaluation(run, step)
                latest |= _record(run, metrics_log, step, values | found)
                if step == rolled.step + 1:
                    _write_samples(run, samples_log, step, rolled.rollouts)
                run.listener(StepDone(step, training.steps, values))
                if found:
                    run.listener(Evaluated(step, found))

            # Save, here only: within a batch of responses there is nothing to resume from.
            interrupted = bool(world.max(stop.asked))
            due = step // training.save_every > rolled.step // training.save_every
            if due or interrupted or step == training.steps:
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


def roll_out(run: Run, now: Moment, step: int) -> Rolled:
    """This rank's responses to the prompts of the roll-out that follows `step` finished steps."""
    config, began = run.config, perf_counter()
    requests = run.requests(step // config.training.updates_per_rollout, run.world)
    report = partial(_rolling, run, step + 1)
    report(len(requests), 0, 0)
    requests = run.completions(requests, behaviour=now.behaviour, clock=now.clock)
    tally = Tally()
    with naming_prompts(lambda request: run.requests.prompt_of(request).id):
        rollouts = run.engine.generate(
            requests,
            behaviour=now.behaviour,
            clock=now.clock,
            sampling=Sampling(max_new_tokens=config.rollout.max_new_tokens),
            seed=config.seed,
            record=recorded(now.objective),
            policy_version=step,
            on_progress=partial(report, len(requests)),
            tally=tally,
        )
    return Rolled(rollouts, step, now, perf_counter() - began, tally)


def step_metrics(
    run: Run, rolled: Rolled, update: dict[str, float], *, step: int
) -> dict[str, float]:
    """The rollout/... and train/... keys of one step over all ranks.

    Steps that share their responses repeat what those are like. update: what the update measured.
    step: steps finished before it.
    """
    behaviour, clock = rolled.moment.behaviour, rolled.moment.clock
    sums = rollout_sums(rolled.rollouts, behaviour=behaviour, clock=clock)
    sums.add({f"rollout/{name}": pair for name, pair in rolled.tally.metrics().items()})
    values = run.world.total(sums).means()
    for name, value in update.items():
        values[f"{'rollout' if name == 'teacher_entropy' else 'train'}/{name}"] = value
    values.setdefault("train/loss", 0.0)
    tokens = float(run.world.sum(torch.tensor(float(sum(map(len, rolled.rollouts))))))
    values["rollout/tokens_per_second"] = tokens / max(rolled.seconds, 1e-9)
    values["rollout/prompts_dropped"] = float(run.requests.dropped)
    if run.config.training.updates_per_rollout > 1:
        values["train/staleness"] = float(step - rolled.step)
    budget = behaviour.budget_at(clock)
    if budget is not None:
        values["rollout/budget"] = budget
    return values


def _evaluation(run: Run, step: int) -> dict[str, float]:
    """The `eval/...` keys after `step` steps; none where no evaluation is due."""
    settings, last = run.config.evaluation, step == run.config.training.steps
    if run.evaluate is None or settings is None or not (last or step % settings.every == 0):
        return {}
    return run.evaluate(step, _progress(run, step, "evaluate"))


def _rolling(run: Run, step: int, total: int, tokens: int, sequences: int) -> None:
    run.listener(Phase(step, "roll out", sequences, total, tokens))


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
