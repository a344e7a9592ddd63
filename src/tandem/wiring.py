"""How the parts of a run are put together; the only place that knows all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from operator import or_
from pathlib import Path

from tandem.behaviours import Student
from tandem.engines import cache_bytes, refuse_engine, training_engine
from tandem.evaluation import EvaluationResult
from tandem.evaluation import evaluate as grade_answers
from tandem.evaluation.record import write_step
from tandem.front.doctor import examine, refuse_failed
from tandem.front.memory import parts, peak
from tandem.front.shapes import shape_of
from tandem.models.cast import Cast, load_cast, speaker, teaching
from tandem.models.loading import DTYPES, LoadedModel, load_model
from tandem.models.prompts import decode_response, encode_prompt
from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment
from tandem.rollout.engine import Engine
from tandem.rollout.protocol import RolloutEngine
from tandem.tasks.base import Prompt, Task
from tandem.training.completions import Completions, check_completions, written_ids
from tandem.training.config import EvaluationSettings, RunConfig
from tandem.training.events import Listener, Note
from tandem.training.fingerprint import fingerprint
from tandem.training.idle import warn_of_idle_steps
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
    refuse_engine(config.rollout.engine, processes=world.size)
    tracker = open_tracker(config, folder, first=world.first)
    prompts = config.task.prompts("train")
    in_turns = config.residency == "one"
    cast = load_cast(
        config.student,
        config.teachers_by_name(),
        config.reference,
        device=world.device,
        teachers_device="cpu" if in_turns else None,
    )
    _look_at(config, cast, prompts, listener)
    alignment, line, student = cast.align(), config.timeline(), cast.student
    teachers = teaching(cast, alignment, device=world.device, in_turns=in_turns)
    reference = None if cast.reference is None else speaker(cast.reference, alignment)
    module = _step_module(config, teachers, reference, alignment, world)
    engine = training_engine(
        config, speaker(student, alignment), teachers, folder=folder, world=world, listener=listener
    )
    requests = RequestSource(
        prompts,
        encode_student=partial(encode_prompt, student),
        encode_teachers={n: partial(encode_prompt, one) for n, one in cast.teachers.items()},
        settings=config.rollout,
        seed=config.seed,
        rollouts=line.rollouts,
        prompts_of=line.prompts_of,
    )
    completions = _completions(config, cast, alignment, teachers, requests, world)
    # Where every token is shared there is nothing to look for in thousands of texts.
    if max(student.tokenizer.get_vocab().values()) >= alignment.size:
        for stretch in line.stretches:
            completions.check(stretch.behaviour, requests.prompts, vocabulary=alignment.size)
    run = Run(
        config=config,
        folder=folder,
        world=world,
        module=module,
        optimizer=make_optimizer(module.student_model.parameters(), config.optimizer),
        rollout_student=student.model,
        engine=engine,
        requests=requests,
        completions=completions,
        decode=lambda rollout: decode_response(student.tokenizer, rollout.ids, alignment),
        evaluate=_evaluator(config, folder, engine, student, alignment, world),
        tracker=tracker,
        listener=warn_of_idle_steps(listener, config),
    )
    return run, student


def _look_at(config: RunConfig, cast: Cast, prompts: Sequence[Prompt], listener: Listener) -> None:
    """Say what may be wrong; raise ValueError for what cannot be right."""
    checks = examine(config, cast, prompts=prompts)
    refuse_failed(checks)
    for check in checks:
        if check.status == "warn":
            listener(Note(f"{check.name}: {check.detail}", warning=True))
    line, size = config.timeline(), cast.align().size
    for stretch in line.stretches:
        check_completions(stretch.behaviour, prompts)
    needs = reduce(or_, (objective.needs() for objective in line.objectives))
    asked = max(needs.student_topk, needs.teacher_topk)
    if asked > size:
        listener(Note(f"top_k is {asked} and the models share {size} ids: all of them"))


def _completions(
    config: RunConfig,
    cast: Cast,
    alignment: Alignment,
    teachers: Mapping[str, Speaker],
    requests: RequestSource,
    world: World,
) -> Completions:
    models = ", ".join(
        f"{name}: {one.settings.path} ({one.settings.dtype}, ends {list(one.end_ids)}, weights "
        f"{fingerprint(one.model)})"
        for name, one in sorted(cast.teachers.items())
    )
    return Completions(
        encode=partial(written_ids, tokenizer=cast.student.tokenizer, alignment=alignment),
        prompt_of=requests.prompt_of,
        sample=_sampler(teachers, config),
        limit=config.rollout.max_new_tokens,
        samples_per_prompt=config.rollout.samples_per_prompt,
        seed=config.seed,
        # All that an answer depends on besides the prompt as its teacher reads it.
        identity=f"{models} over {alignment.size} ids ended by {alignment.end_id} and without "
        f"{list(alignment.aliases)}",
        rank=world.rank,
    )


def _sampler(
    teachers: Mapping[str, Speaker], config: RunConfig
) -> Callable[[list[Request], int], list[tuple[int, ...]]]:
    """Each teacher alone: requests, which it reads as the teacher, to at most n new tokens each."""
    engines = {
        name: Engine(teacher, {}, slots=config.rollout.slots, cache_bytes=cache_bytes(config))
        for name, teacher in teachers.items()
    }

    def sample(requests: list[Request], longest: int) -> list[tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {}
        for name, engine in engines.items():
            own = [replace(r, student_ids=r.teacher_ids) for r in requests if r.teacher == name]
            rollouts = engine.generate(
                own,
                behaviour=Student(),
                clock=Clock(0, 1),
                sampling=Sampling(longest),
                # The requests' ids have the run's seed folded in, where it counts.
                seed=0,
                record=SignalSpec(),
            )
            found |= {r.request.id: tuple(r.ids.tolist()) for r in rollouts}
        return [found[request.id] for request in requests]

    return sample


def _step_module(
    config: RunConfig,
    teachers: Mapping[str, Speaker],
    reference: Speaker | None,
    alignment: Alignment,
    world: World,
) -> StepModule:
    """The student that is trained: fp32 whatever its dtype, sharded, computing in its dtype."""
    master = config.student.model_copy(update={"dtype": "float32"})
    trained = load_model(master, device=world.device, trainable=True)
    if config.training.gradient_checkpointing:
        recompute_layers(trained.model)
    module = StepModule(
        student=speaker(trained, alignment),
        teachers=teachers,
        reference=reference,
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
    config: RunConfig,
    folder: Path,
    engine: RolloutEngine,
    student: LoadedModel,
    alignment: Alignment,
    world: World,
) -> Callable[[int, Progress], dict[str, float]] | None:
    settings = config.evaluation
    if settings is None:
        return None

    def evaluate_now(step: int, on_progress: Progress) -> dict[str, float]:
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
        if world.first:
            write_step(folder, step, result, split=settings.split)
        return result.metrics()

    return evaluate_now


def grade(
    settings: EvaluationSettings,
    *,
    task: Task,
    engine: RolloutEngine,
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


def estimate_memory(config: RunConfig, student: LoadedModel, module: StepModule) -> Estimate:
    """The arithmetic of this run's memory, from the loaded models."""
    shape, reference = partial(shape_of, source="the loaded model"), module.reference
    components = parts(
        config,
        student=shape(student.model.config),
        teachers={name: shape(teacher.config) for name, teacher in module.teachers.items()},
        reference=None if reference is None else shape(reference.config),
    )
    return Estimate(
        total=peak(components),
        cache_bytes=sum(part.bytes for part in components if part.name.endswith(" cache")),
        lines=[f"{p.name} {p.bytes / GIB:.2f} GiB = {p.arithmetic}" for p in components],
    )
