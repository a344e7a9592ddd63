"""`tandem eval MODEL --suite …`: which suites, how a model is asked them, and what it scored."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tandem.behaviours import Student
from tandem.evaluation.suite_result import SuiteResult
from tandem.evaluation.suite_run import Asking, run_suite
from tandem.evaluation.suites import SUITES, Suite, suite_named
from tandem.front.alone import Alone, alone
from tandem.front.evaluating import defaults
from tandem.front.run_models import FINAL, parse
from tandem.models.prompts import decode_response, encode_prompt
from tandem.models.settings import PROBLEM, ModelSettings
from tandem.settings import Settings
from tandem.training.components import build
from tandem.training.fingerprint import fingerprint
from tandem.training.recipe_file import Recipe, override
from tandem.types import Clock, Request, Rollout, Sampling, SignalSpec

Progress = Callable[[int, int], None]
# Limits of a run that hold for its suites too; how long answers may be is the suite's to say.
_KEPT_LIMITS = ("slots", "threads", "engine")


class SuiteLimits(Settings):
    """What a suite's evaluation may take.

    max_prompt_tokens: longer problems are dropped and counted. slots: answers decoded at once.
    threads: CPU threads of PyTorch; None leaves its own choice. engine: what samples.
    problems: only the first so many of each suite; None asks all.
    """

    max_prompt_tokens: int = Field(default=4096, gt=0)
    slots: int = Field(default=64, gt=0)
    threads: int | None = Field(default=None, gt=0)
    engine: Literal["native", "vllm"] = "native"
    problems: int | None = Field(default=None, gt=0)


@dataclass(frozen=True, slots=True)
class SuitePlan:
    """A model, what it is asked, and the folder that keeps a folder of answers per suite."""

    model: ModelSettings
    suites: tuple[Suite, ...]
    limits: SuiteLimits
    seed: int
    output: Path


def plan_suites(
    model: str,
    *,
    suites: Sequence[str],
    data_root: Path | None = None,
    output: Path | None = None,
    samples: int | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> SuitePlan:
    """Resolve the arguments of `tandem eval --suite`.

    model: as in `front.evaluating.plan`. suites: their kinds. data_root, samples: for all of them.
    overrides: `model.key=value`, `limits.key=value`, `suite.key=value` for all suites, or
    `math500.key=value` for one. Raises ValueError, in one sentence, for whatever the user can mend.
    """
    brought = defaults(model)
    limits = brought.data["limits"]
    data: dict[str, Any] = {
        "model": brought.data["model"],
        "limits": {key: limits[key] for key in _KEPT_LIMITS if key in limits},
        "suite": {},
    }
    recipe = override(Recipe(data, brought.source), overrides)
    data, source = recipe.data, recipe.source
    if not suites or len(set(suites)) < len(suites):
        raise ValueError(
            f"--suite is {','.join(suites)!r}; name some of {', '.join(SUITES)}, each once"
        )
    for section in data:
        if section not in ("model", "limits", "suite", *suites):
            raise ValueError(
                f"unknown section {section!r}; there are model, limits, suite and the suites that "
                f"are evaluated ({', '.join(suites)})"
            )
    given = {"data_root": data_root, "samples": samples}
    shared = {key: value for key, value in given.items() if value is not None} | data["suite"]
    return SuitePlan(
        model=build(ModelSettings, data["model"], place="model", source=source),
        suites=tuple(suite_named(kind, {**shared, **data.get(kind, {})}) for kind in suites),
        limits=build(SuiteLimits, data["limits"], place="limits", source=source),
        seed=seed,
        output=output or default_output(model),
    )


def default_output(model: str) -> Path:
    """A run's own suites/ for its models; a folder under runs/suites for any other."""
    named = parse(model)
    if named.is_run:
        return Path(named.path) / "suites" / (named.at or FINAL)
    return Path("runs") / "suites" / re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")


def instructed(model: ModelSettings, suite: Suite) -> ModelSettings:
    """The model as a suite asks it: with the suite's instruction, unless it has its own words.

    A chat model reads it as its system's words; any other in the suite's plain template.
    """
    instruction = suite.instruction
    if not instruction:
        return model
    if model.prompt == "chat":
        own = model.system is not None
        return model if own else model.model_copy(update={"system": instruction})
    if model.template != PROBLEM:
        return model
    template = suite.plain_template.replace("{instruction}", instruction)
    return model.model_copy(update={"template": template})


def evaluate_suites(
    plan: SuitePlan, *, watch: Callable[[str], Progress]
) -> Iterator[tuple[Suite, SuiteResult]]:
    """Load the model once and evaluate one suite after the other, each as soon as it is asked for.

    watch: makes the progress callback of a phase from its name. Raises ValueError as `run_suite`
    and `load_model` do.
    """
    # Before the model: a file that is not there should not take minutes to say.
    for suite in plan.suites:
        suite.ready()
        if not suite.problems:
            raise ValueError(f"suite {suite.kind} finds no problem in {suite.source()}")
    limits = plan.limits
    longest = limits.max_prompt_tokens + max(suite.max_new_tokens for suite in plan.suites)
    with alone(
        plan.model,
        slots=limits.slots,
        longest=longest,
        threads=limits.threads,
        engine=limits.engine,
    ) as speaks:
        weights = fingerprint(speaks.model.model)
        for suite in plan.suites:
            yield (
                suite,
                run_suite(
                    suite,
                    _asking(suite, plan, speaks, weights),
                    folder=plan.output / str(suite.kind),
                    problems=limits.problems,
                    on_answer=watch(f"{suite.kind}: answers"),
                    on_grade=watch(f"{suite.kind}: graded"),
                    on_count=watch(f"{suite.kind}: votes"),
                ),
            )


def _asking(suite: Suite, plan: SuitePlan, speaks: Alone, weights: str) -> Asking:
    settings = instructed(plan.model, suite)
    loaded = replace(speaks.model, settings=settings)

    def generate(requests: list[Request], done: Callable[[int], None]) -> list[Rollout]:
        return speaks.engine.generate(
            requests,
            behaviour=Student(),
            clock=Clock(0, 1),
            sampling=Sampling(suite.max_new_tokens, suite.temperature),
            seed=plan.seed,
            record=SignalSpec(),
            on_progress=lambda _, sequences: done(sequences),
        )

    spoken = settings.model_dump(
        mode="json", include={"dtype", "prompt", "template", "system", "thinking"}
    )
    return Asking(
        encode=lambda prompt: encode_prompt(loaded, prompt),
        decode=lambda rollout: decode_response(loaded.tokenizer, rollout.ids, speaks.alignment),
        generate=generate,
        identity={
            "model": weights,
            **spoken,
            "ends": [*loaded.end_ids, *speaks.alignment.aliases],
            "seed": plan.seed,
            "engine": plan.limits.engine,
        },
        batch=plan.limits.slots,
        max_prompt_tokens=plan.limits.max_prompt_tokens,
    )
