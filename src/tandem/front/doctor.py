"""What commonly ruins a distillation run, looked at before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from tandem.models.cast import Cast, role_of
from tandem.models.loading import DTYPES, LoadedModel
from tandem.models.prompts import encode_prompt
from tandem.models.settings import ModelSettings
from tandem.models.vocabulary import same_weights
from tandem.rollout.vllm_process import missing
from tandem.tasks.base import Prompt
from tandem.training.config import RunConfig
from tandem.training.teachers import teacher_of

Status = Literal["ok", "warn", "fail"]

PROMPT_TAIL = 72
"""Characters shown of the end of a prompt, where templates differ."""

PROMPTS_MEASURED = 2000
"""Prompts whose length is looked at; of more, as many evenly spaced ones."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `fail`: the run cannot be right; `warn`: it may not be."""

    name: str
    status: Status
    detail: str


def examine(config: RunConfig, cast: Cast, *, prompts: Sequence[Prompt]) -> list[Check]:
    """Every check of a run whose models are loaded.

    prompts: the training split. Nothing is raised: what is wrong is a check that fails.
    """
    everybody = {"student": cast.student, **cast.others}
    judged = _judged(cast, prompts)
    checks = [
        _tokenizers(cast),
        *(_end_ids(role, loaded) for role, loaded in everybody.items()),
        _padded_rows(cast),
        _prompt("student", cast.student, prompts),
    ]
    for name, teacher in cast.teachers.items():
        role = role_of(name, cast.teachers)
        if prompts and not judged[name]:
            checks.append(Check(f"{role} prompt", "warn", "no prompt is of its domain"))
        else:
            checks.append(_prompt(role, teacher, judged[name]))
        checks.append(_same_model(role, cast.student, teacher))
    checks += [_dtype(role, loaded) for role, loaded in everybody.items()]
    checks.append(_lengths(config, cast, prompts))
    checks += [_context(role, config, loaded) for role, loaded in everybody.items()]
    if len(cast.teachers) > 1:
        checks.append(_domains(cast, prompts, judged))
    if cast.reference is not None:
        checks.append(_reference(config))
    if config.rollout.engine == "vllm":
        reason = missing()
        checks.append(Check("rollout engine", "fail" if reason else "ok", reason or "vllm"))
    return checks


def refuse_failed(checks: Sequence[Check]) -> None:
    """Raise ValueError with the first check that failed."""
    for check in checks:
        if check.status == "fail":
            raise ValueError(f"{check.name}: {check.detail}")


def _judged(cast: Cast, prompts: Sequence[Prompt]) -> dict[str, list[Prompt]]:
    """The prompts of each teacher; those that have none are left out."""
    found: dict[str, list[Prompt]] = {name: [] for name in cast.teachers}
    for prompt in prompts:
        if prompt.domain in found or len(found) == 1:
            found[teacher_of(prompt, found)].append(prompt)
    return found


def _domains(cast: Cast, prompts: Sequence[Prompt], judged: dict[str, list[Prompt]]) -> Check:
    try:
        for prompt in prompts:
            teacher_of(prompt, cast.teachers)
    except ValueError as error:
        return Check("domains", "fail", str(error))
    counts = ", ".join(f"{name} {len(its):,}" for name, its in judged.items())
    return Check("domains", "ok", f"prompts by teacher: {counts}")


def _reference(config: RunConfig) -> Check:
    users = [o.kind for o in config.timeline().objectives if o.needs().reference]
    if users:
        return Check("reference", "ok", f"{', '.join(users)} compares with it")
    detail = "no objective of the recipe compares with it: leave it out, it only takes memory"
    return Check("reference", "warn", detail)


def _tokenizers(cast: Cast) -> Check:
    try:
        alignment = cast.align()
    except ValueError as error:
        return Check("tokenizers", "fail", str(error))
    notes = "".join(f"; {note}" for note in alignment.notes)
    number = "both" if len(cast.others) == 1 else f"all {1 + len(cast.others)}"
    return Check(
        "tokenizers", "ok", f"{alignment.size} ids mean the same to {number} models{notes}"
    )


def _end_ids(role: str, loaded: LoadedModel) -> Check:
    named = ", ".join(f"{i} {_token(loaded.tokenizer, i)}" for i in loaded.end_ids)
    own = loaded.tokenizer.eos_token_id
    detail = f"{named} (emitted first: {loaded.end_ids[0]})" if role == "student" else named
    if own not in loaded.end_ids:
        # Not wrong by itself: base tokenizers often name the chat model's end.
        detail += f"; the tokenizer names {own}, which is not used"
    return Check(f"{role} end ids", "ok", detail)


def _token(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    return repr(tokenizer.convert_ids_to_tokens(token_id))


def _padded_rows(cast: Cast) -> Check:
    known = max(cast.student.tokenizer.get_vocab().values()) + 1
    rows = " and ".join(f"{loaded.rows} {role}" for role, loaded in cast.others.items())
    detail = (
        f"{cast.student.rows} student and {rows} rows for {known} tokens: only shared ids are ever "
        "sampled or compared"
    )
    return Check("padded rows", "ok", detail)


def _prompt(role: str, loaded: LoadedModel, prompts: Sequence[Prompt]) -> Check:
    name = f"{role} prompt"
    if not prompts:
        return Check(name, "fail", "the task has no training prompts; check its source and split")
    try:
        ids = encode_prompt(loaded, prompts[0])
    except ValueError as error:
        return Check(name, "fail", str(error))
    text = str(loaded.tokenizer.decode(list(ids), skip_special_tokens=False))
    tail = text if len(text) <= PROMPT_TAIL else f"…{text[-PROMPT_TAIL:]}"
    settings = loaded.settings
    detail = f"{settings.prompt}, ends {tail!r}"
    if settings.prompt == "chat" and settings.thinking is None and _reads_thinking(loaded):
        return Check(name, "warn", f"{detail}; its template reads thinking, which is not set")
    return Check(name, "ok", detail)


def _reads_thinking(loaded: LoadedModel) -> bool:
    template = loaded.tokenizer.chat_template
    return template is not None and "enable_thinking" in str(template)


def _same_model(role: str, student: LoadedModel, teacher: LoadedModel) -> Check:
    name = "two models" if role == "teacher" else f"student and {role}"
    if same_weights(student, teacher):
        return Check(name, "warn", f"{role} and student are equal: there is nothing to learn")
    sizes = [
        sum(parameter.numel() for parameter in loaded.model.parameters())
        for loaded in (student, teacher)
    ]
    return Check(name, "ok", f"{sizes[0]:,} and {sizes[1]:,} parameters, not equal")


def _dtype(role: str, loaded: LoadedModel) -> Check:
    used = {str(p.dtype).removeprefix("torch.") for p in loaded.model.parameters()}
    asked = str(DTYPES[loaded.settings.dtype]).removeprefix("torch.")
    if used == {asked}:
        return Check(f"{role} dtype", "ok", asked)
    found = ", ".join(sorted(used))
    return Check(f"{role} dtype", "fail", f"{asked} was asked for, the weights are {found}")


def _lengths(config: RunConfig, cast: Cast, prompts: Sequence[Prompt]) -> Check:
    limit = config.rollout.max_prompt_tokens
    measured = prompts[:: -(-len(prompts) // PROMPTS_MEASURED) or 1]

    def length(prompt: Prompt) -> int:
        teacher = cast.teachers[teacher_of(prompt, cast.teachers)]
        return max(len(encode_prompt(cast.student, prompt)), len(encode_prompt(teacher, prompt)))

    try:
        lengths = [length(prompt) for prompt in measured]
    except ValueError as error:
        return Check("prompt lengths", "fail", str(error))
    over = sum(length > limit for length in lengths)
    whole = len(measured) == len(prompts)
    if over == len(lengths) and whole:
        detail = f"all {over} prompts are longer than max_prompt_tokens {limit}; raise it"
        return Check("prompt lengths", "fail", detail)
    looked = "" if whole else f" looked at (of {len(prompts):,})"
    detail = (
        f"longest {max(lengths)} of at most {limit} tokens, "
        f"{over} of {len(lengths)}{looked} dropped"
    )
    return Check("prompt lengths", "warn" if over else "ok", detail)


def _context(role: str, config: RunConfig, loaded: LoadedModel) -> Check:
    need = config.rollout.max_prompt_tokens + config.rollout.max_new_tokens
    have = loaded.model.config.get_text_config().to_dict().get("max_position_embeddings")
    if have is None:
        return Check(f"{role} context", "ok", f"{need} tokens asked for; the model states no limit")
    if need > have:
        detail = (
            f"max_prompt_tokens + max_new_tokens is {need}, but the model was made for {have}; "
            "lower one of them"
        )
        return Check(f"{role} context", "fail", detail)
    return Check(f"{role} context", "ok", f"{need} of {have} tokens")


def describe(settings: ModelSettings) -> str:
    """One line on how a model is loaded and spoken to."""
    speech = settings.prompt
    if settings.thinking is not None:
        speech += f", thinking {'on' if settings.thinking else 'off'}"
    return f"{settings.path} ({settings.dtype}, {settings.attention}, {speech})"
