"""What `--dry-run` prints: the resolved run, its token budget, its schedule and its memory."""

from __future__ import annotations

from collections.abc import Mapping

from tandem.front.memory import ASSUMPTIONS, GIB, Part, parts, peak
from tandem.front.shapes import Shape, model_shape
from tandem.models.cast import role_of
from tandem.training.config import RunConfig, dump_config
from tandem.training.phases import Stretch
from tandem.types import Clock


def dry_run(config: RunConfig) -> str:
    """The whole text. Loads no weights and, for published Qwen3 models, asks no network.

    Raises ValueError where a model's sizes are not to be had.
    """
    student = model_shape(config.student.path)
    teachers = {name: model_shape(one.path) for name, one in config.teachers_by_name().items()}
    reference = None if config.reference is None else model_shape(config.reference.path)
    sections = [
        "# the resolved run\n" + dump_config(config).rstrip(),
        "# tokens\n" + "\n".join(token_budget(config)),
        "# behaviour by step\n" + "\n".join(schedule(config)),
        "# memory\n" + "\n".join(_memory(config, student, teachers, reference)),
    ]
    return "\n\n".join(sections)


def token_budget(config: RunConfig) -> list[str]:
    """Upper bounds of responses and tokens, per batch of responses and in all."""
    rollout, steps = config.rollout, config.training.steps
    line, updates = config.timeline(), config.training.updates_per_rollout
    responses = rollout.prompts_per_step * rollout.samples_per_prompt
    new, prompt = responses * rollout.max_new_tokens, responses * rollout.max_prompt_tokens
    each = "step" if updates == 1 else f"roll-out, which serves {updates} updates"
    lines = [
        f"{responses:,} responses per {each} ({rollout.prompts_per_step} prompts × "
        f"{rollout.samples_per_prompt}), {responses * line.rollouts:,} in {steps} steps",
        f"at most {new:,} response tokens per {each.split(',')[0]}, {new * line.rollouts:,} in all",
        f"at most {new + prompt:,} tokens per update, prompts included",
        f"{rollout.prompts_per_step * line.rollouts:,} prompts drawn",
    ]
    evaluation = config.evaluation
    if evaluation is not None:
        times = 1 + -(-steps // evaluation.every)
        limit = evaluation.max_new_tokens or rollout.max_new_tokens
        answers = evaluation.problems * evaluation.samples
        lines.append(
            f"{times} evaluations of {evaluation.problems} problems × {evaluation.samples} "
            f"samples ({evaluation.split}): at most {times * answers * limit:,} tokens"
        )
    return lines


def schedule(config: RunConfig) -> list[str]:
    """Each phase's behaviour and objective; when it reads the teacher, and its KL budget at some
    steps."""
    lines: list[str] = []
    for stretch in config.timeline().stretches:
        if config.phases:
            notes = ", prompts again from the first" * stretch.restarts
            notes += ", AdamW reset" * stretch.resets
            lines.append(
                f"steps {stretch.start + 1} to {stretch.end}: {stretch.behaviour.kind}, "
                f"{stretch.objective.kind}{notes}"
            )
        lines += _readings(stretch)
    return lines


def _readings(stretch: Stretch) -> list[str]:
    behaviour, first = stretch.behaviour, stretch.start
    clocks = [Clock(k, stretch.end - first) for k in range(stretch.end - first)]
    reading = [clock.step for clock in clocks if behaviour.needs_teacher(clock)]
    given: list[str] = []
    source = behaviour.completion_source()
    if source is not None:
        where = source.kind if source.cache is None else f"{source.kind} {source.cache}"
        given = [f"{behaviour.kind}: responses open with given tokens ({where})"]
    if not reading:
        return [*given, f"{behaviour.kind}: the teacher is not read while rolling out"]
    lines = [
        *given,
        f"{behaviour.kind}: the teacher is read in {len(reading)} of {len(clocks)} steps "
        f"({first + reading[0] + 1} to {first + reading[-1] + 1}), where it costs no second pass",
    ]
    shown = sorted({*range(0, reading[-1] + 1, max(1, len(reading) // 5)), reading[-1]})
    for step in shown:
        budget = behaviour.budget_at(clocks[step])
        if budget is not None:
            lines.append(f"step {first + step + 1}: {budget:.5f} nats per token")
    return lines


def _memory(
    config: RunConfig, student: Shape, teachers: Mapping[str, Shape], reference: Shape | None
) -> list[str]:
    components = parts(config, student=student, teachers=teachers, reference=reference)
    sizes = {"student": student}
    sizes |= {role_of(name, teachers): shape for name, shape in teachers.items()}
    sizes |= {} if reference is None else {"reference": reference}
    lines = [
        "; ".join(f"{role} sizes: {shape.source}" for role, shape in sizes.items()),
        *(_line(part) for part in components),
        f"{'peak':<24}{_size(peak(components)):>12}   the larger of the two phases",
        "assumed: " + "; ".join(ASSUMPTIONS),
    ]
    return lines


def _line(part: Part) -> str:
    return f"{part.name:<24}{_size(part.bytes):>12}   {part.when:<9} {part.arithmetic}"


def _size(count: int) -> str:
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    return f"{count / 2**20:.1f} MiB"
