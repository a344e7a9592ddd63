"""What `--dry-run` prints: the resolved run, its token budget, its schedule and its memory."""

from __future__ import annotations

from tandem.front.memory import ASSUMPTIONS, GIB, Part, parts, peak
from tandem.front.shapes import Shape, model_shape
from tandem.training.config import RunConfig, dump_config
from tandem.types import Clock


def dry_run(config: RunConfig) -> str:
    """The whole text. Loads no weights and, for published Qwen3 models, asks no network.

    Raises ValueError where a model's sizes are not to be had.
    """
    student, teacher = model_shape(config.student.path), model_shape(config.teacher.path)
    sections = [
        "# the resolved run\n" + dump_config(config).rstrip(),
        "# tokens\n" + "\n".join(token_budget(config)),
        "# behaviour by step\n" + "\n".join(budget_schedule(config)),
        "# memory\n" + "\n".join(_memory(config, student, teacher)),
    ]
    return "\n\n".join(sections)


def token_budget(config: RunConfig) -> list[str]:
    """Upper bounds of responses and tokens, per step and in all."""
    rollout, steps = config.rollout, config.training.steps
    responses = rollout.prompts_per_step * rollout.samples_per_prompt
    new, prompt = responses * rollout.max_new_tokens, responses * rollout.max_prompt_tokens
    lines = [
        f"{responses:,} responses per step ({rollout.prompts_per_step} prompts × "
        f"{rollout.samples_per_prompt}), {responses * steps:,} in {steps} steps",
        f"at most {new:,} response tokens per step, {new * steps:,} in all",
        f"at most {new + prompt:,} tokens per update, prompts included",
        f"{rollout.prompts_per_step * steps:,} prompts drawn",
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


def budget_schedule(config: RunConfig) -> list[str]:
    """When the behaviour reads the teacher, and its KL budget at some steps."""
    behaviour, steps = config.behaviour, config.training.steps
    clocks = [Clock(step, steps) for step in range(steps)]
    reading = [clock.step for clock in clocks if behaviour.needs_teacher(clock)]
    if not reading:
        return [f"{behaviour.kind}: the teacher is not read while rolling out"]
    lines = [
        f"{behaviour.kind}: the teacher is read in {len(reading)} of {steps} steps "
        f"({reading[0] + 1} to {reading[-1] + 1}), where it costs no second pass"
    ]
    shown = sorted({*range(0, reading[-1] + 1, max(1, len(reading) // 5)), reading[-1]})
    for step in shown:
        budget = behaviour.budget_at(clocks[step])
        if budget is not None:
            lines.append(f"step {step + 1}: {budget:.5f} nats per token")
    return lines


def _memory(config: RunConfig, student: Shape, teacher: Shape) -> list[str]:
    components = parts(config, student=student, teacher=teacher)
    lines = [
        f"student sizes: {student.source}; teacher sizes: {teacher.source}",
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
