"""The final model: a folder that `from_pretrained` opens, with a card that says what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from transformers.utils import logging

from tandem.models.loading import LoadedModel
from tandem.models.settings import ModelSettings
from tandem.training.checkpoint import refused_writes, sync_folder
from tandem.training.config import RunConfig, dump_config
from tandem.training.teachers import ONLY_TEACHER

# Metrics of the last step that a card shows, beside those of the last evaluation.
SHOWN = ("train/reverse_kl", "rollout/length", "rollout/truncated")


def save_final(
    folder: Path,
    *,
    student: LoadedModel,
    silenced_ids: Sequence[int],
    config: RunConfig,
    metrics: dict[str, float],
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write weights, tokenizer, end ids and model card to `folder`, whole or not at all.

    Raises ValueError where the disk does not take it.

    beside: further files, name to text. silenced_ids: ids that never occurred while the student
    learnt, the teacher's end ids above all. generation_config.json suppresses them, so that the law
    is the same wherever it is loaded.
    """
    partial = folder.with_name(f".partial-{folder.name}")
    old = folder.with_name(f".partial-old-{folder.name}")
    for debris in (partial, old):
        if debris.exists():
            shutil.rmtree(debris)
    model = student.model
    if model.generation_config is not None:
        # The ids the student was trained to end with, so that whoever loads it stops there too.
        model.generation_config.eos_token_id = list(student.end_ids)
        model.generation_config.suppress_tokens = list(silenced_ids) or None
    with refused_writes("final model", folder.parent, "go on with --resume"):
        try:
            texts = {**(beside or {}), "README.md": model_card(config, metrics)}
            _write(partial, student, texts)
        except BaseException:
            if partial.exists():
                shutil.rmtree(partial)
            raise
        if folder.exists():
            # Renamed first: a deletion that is cut short must not leave half a model by that name.
            folder.rename(old)
        partial.rename(folder)
    if old.exists():
        shutil.rmtree(old)


def _write(folder: Path, student: LoadedModel, texts: Mapping[str, str]) -> None:
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        student.model.save_pretrained(folder)
    finally:
        if bars:
            logging.enable_progress_bar()
    student.tokenizer.save_pretrained(folder)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    sync_folder(folder)


TEMPLATE = """---
{front}
---

# {name}

A student distilled with tandem (`tandem-opd`): it wrote its own answers, and learnt from what the
teacher would have said at every token.

| | |
|---|---|
| student | `{student}` |
| teacher | {teacher} |
| task | `{task}` |
| behaviour | {behaviour} |
| objective | {objective} |
| optimiser steps | {steps} |
| seed | {seed} |

## Load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

It reads {reads}.

## Last metrics

| key | value |
|---|---|
{metrics}

## Every setting

```yaml
{settings}
```
"""


def model_card(config: RunConfig, metrics: dict[str, float]) -> str:
    """The card: how it was made, what it scored, how to load it. metrics: the last of each key."""
    header = {"library_name": "transformers", "tags": ["tandem", "on-policy-distillation"]}
    teachers = config.teachers_by_name()
    paths = [config.student.path, *(teacher.path for teacher in teachers.values())]
    hub_ids = [path for path in dict.fromkeys(paths) if _is_hub_id(path)]
    if hub_ids:
        header["base_model"] = hub_ids
    stretches = config.timeline().stretches
    shown = {k: v for k, v in sorted(metrics.items()) if k.startswith("eval/") or k in SHOWN}
    return TEMPLATE.format(
        front="\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items()),
        name=config.name,
        student=config.student.path,
        teacher=_named(teachers),
        task=config.task.kind,
        behaviour=_in_turn(stretch.behaviour.kind for stretch in stretches),
        objective=_in_turn(stretch.objective.kind for stretch in stretches),
        steps=config.training.steps,
        seed=config.seed,
        reads="plain text" if config.student.prompt == "plain" else "its tokenizer's chat template",
        metrics="\n".join(f"| `{key}` | {value:.4g} |" for key, value in shown.items()),
        settings=dump_config(config).rstrip(),
    )


def _named(teachers: Mapping[str, ModelSettings]) -> str:
    """One path, or several with the domain that each judges."""
    if list(teachers) == [ONLY_TEACHER]:
        return f"`{teachers[ONLY_TEACHER].path}`"
    return ", ".join(f"`{one.path}` for {name}" for name, one in teachers.items())


def _in_turn(kinds: Iterable[str]) -> str:
    """What came after what."""
    return ", then ".join(f"`{kind}`" for kind, _ in groupby(kinds))


def _is_hub_id(path: str) -> bool:
    return path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).exists()
