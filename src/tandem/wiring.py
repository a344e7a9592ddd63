"""How the parts of a run are put together; the only place that knows all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from operator import or_
from pathlib import Path

from tandem.behaviours import Student
from tandem.evaluation import EvaluationResult
from tandem.evaluation import evaluate as grade_answers
from tandem.front.doctor import examine, refuse_failed
from tandem.front.memory import parts, peak
from tandem.front.shapes import shape_of
from tandem.models.loading import DTYPES, LoadedModel, load_model
from tandem.models.prompts import decode_response, encode_prompt
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment, align
from tandem.rollout.engine import Engine
from tandem.tasks.base import Prompt, Task
from tandem.training.config import EvaluationSettings, RunConfig
from tandem.training.events import Listener, Note
from tandem.training.loop import Run
from tandem.training.optimizer import make_optimizer
from tandem.training.parallel import World, shard, share
from tandem.training.rehearsal import GIB, Estimate
from tandem.training.requests import RequestSource
from tandem.training.step import StepModule, decoder_layers, recompute_layers
from tandem.training.tracking import open_tracker
from tandem.types import Clock, Request, Rollout, Sampling, SignalSpec

Progress = Callable[[int, int], None]

# Evaluations draw from request ids far above those of any run's rollouts, the same ones each time:
# two evaluations then differ by the model and not by the draws.
FIRST_EVALUATION_ID = 2**40


def assemble(
    config: RunConfig, folder: Path, world: World, listener: Listener
) -> tuple[Run, LoadedModel]:
    """Everything the loop needs, and the whole copy of the student that it decodes with."""
    tracker = open_tracker(config, folder, first=world.first)
    prompts = config.task.prompts("train")
    student = load_model(config.student, device=world.device)
    teacher = load_model(config.teacher, device=world.device)
    checks = examine(config, student=student, teacher=teacher, prompts=prompts)
    refuse_failed(checks)
    for check in checks:
        if check.status == "warn":
            listener(Note(f"{check.name}: {check.detail}", warning=True))
    alignment = align(student, teacher)
    line = config.timeline()
    needs = reduce(or_, (objective.needs() for objective in line.objectives))
    if max(needs.student_topk, needs.teacher_topk) > alignment.size:
        raise ValueError(
            f"objective.top_k is {max(needs.student_topk, needs.teacher_topk)}, but the models "
            f"share {alignment.size} ids: lower it to that or less"
        )
    speaks = Speaker(student.model, own_end_ids=student.end_ids, alignment=alignment)
    teaches = Speaker(teacher.model, own_end_ids=teacher.end_ids, alignment=alignment)
    module = _step_module(config, teaches, alignment, world)
    engine = Engine(speaks, {"teacher": teaches}, slots=config.rollout.slots)
    run = Run(
        config=config,
        folder=folder,
        world=world,
        module=module,
        optimizer=make_optimizer(module.student_model.parameters(), config.optimizer),
        rollout_student=student.model,
        engine=engine,
        requests=RequestSource(
            prompts,
            encode_student=partial(encode_prompt, student),
            encode_teacher=partial(encode_prompt, teacher),
            settings=config.rollout,
            seed=config.seed,
            rollouts=line.rollouts,
            prompts_of=line.prompts_of,
        ),
        decode=lambda rollout: decode_response(student.tokenizer, rollout.ids, alignment),
        evaluate=_evaluator(config, engine, student, alignment, world),
        tracker=tracker,
        listener=listener,
    )
    return run, student


def _step_module(
    config: RunConfig, teacher: Speaker, alignment: Alignment, world: World
) -> StepModule:
    """The student that is trained: fp32 whatever its dtype, sharded, computing in its dtype."""
    master = config.student.model_copy(update={"dtype": "float32"})
    trained = load_model(master, device=world.device, trainable=True)
    if config.training.gradient_checkpointing:
        recompute_layers(trained.model)
    module = StepModule(
        student=Speaker(trained.model, own_end_ids=trained.end_ids, alignment=alignment),
        teachers={"teacher": teacher},
        chunk_bytes=config.training.head_chunk_bytes,
    )
    shard(
        module,
        layers=decoder_layers(trained.model),
        whole=module.frozen_models,
        compute_dtype=DTYPES[config.student.dtype],
        world=world,
        methods=["sweep"],
    )
    return module


def _evaluator(
    config: RunConfig, engine: Engine, student: LoadedModel, alignment: Alignment, world: World
) -> Callable[[int, Progress], dict[str, float]] | None:
    settings = config.evaluation
    if settings is None:
        return None

    def evaluate_now(step: int, on_progress: Progress) -> dict[str, float]:
        del step
        result = grade(
            settings,
            task=config.task,
            engine=engine,
            student=student,
            alignment=alignment,
            max_prompt_tokens=config.rollout.max_prompt_tokens,
            max_new_tokens=settings.max_new_tokens or config.rollout.max_new_tokens,
            seed=config.seed,
            on_progress=on_progress,
            world=world,
        )
        return result.metrics()

    return evaluate_now


def grade(
    settings: EvaluationSettings,
    *,
    task: Task,
    engine: Engine,
    student: LoadedModel,
    alignment: Alignment,
    max_prompt_tokens: int,
    max_new_tokens: int,
    seed: int,
    on_progress: Progress,
    world: World | None = None,
) -> EvaluationResult:
    """Sample answers of the student alone, each rank its share, and grade all of them."""

    def encode(prompt: Prompt) -> tuple[tuple[int, ...], tuple[int, ...]]:
        ids = encode_prompt(student, prompt)
        return ids, ids

    def generate(requests: list[Request]) -> list[Rollout]:
        own = list(range(len(requests))) if world is None else list(share(len(requests), world))
        rollouts = engine.generate(
            [requests[i] for i in own],
            behaviour=Student(),
            clock=Clock(0, 1),
            sampling=Sampling(max_new_tokens, settings.temperature),
            seed=seed,
            record=SignalSpec(),
            on_progress=lambda _, done: on_progress(done, len(own)),
        )
        if world is None:
            return rollouts
        everyone = world.gather(dict(zip(own, rollouts, strict=True)))
        found = {i: rollout for part in everyone for i, rollout in part.items()}
        return [found[i] for i in range(len(requests))]

    return grade_answers(
        task=task,
        prompts=task.prompts(settings.split)[: settings.problems],
        samples=settings.samples,
        encode=encode,
        decode=lambda rollout: decode_response(student.tokenizer, rollout.ids, alignment),
        generate=generate,
        max_prompt_tokens=max_prompt_tokens,
        first_request_id=FIRST_EVALUATION_ID,
    )


def estimate_memory(config: RunConfig, student: LoadedModel, teacher: Speaker) -> Estimate:
    components = parts(
        config,
        student=shape_of(student.model.config, source="the loaded model"),
        teacher=shape_of(teacher.config, source="the loaded model"),
    )
    return Estimate(
        total=peak(components),
        cache_bytes=sum(part.bytes for part in components if part.name.endswith(" cache")),
        lines=[f"{p.name} {p.bytes / GIB:.2f} GiB = {p.arithmetic}" for p in components],
    )
