"""Load a causal language model and its tokenizer, quietly, or say in one sentence why not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from tandem.models.heads import TESTED, head_form, output_layer
from tandem.models.probe import check_cached_forward
from tandem.models.settings import ModelSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ASSETS = Path(__file__).parents[1] / "assets"
EMBEDDED = {"embedded:teacher": ASSETS / "teacher", "embedded:student": ASSETS / "student"}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with the tokenizer and the end ids that go with it (the emitted end id first)."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_ids: tuple[int, ...]
    settings: ModelSettings

    @property
    def rows(self) -> int:
        """Rows of the head, padding included."""
        return output_layer(self.model).weight.shape[0]


def load_model(
    settings: ModelSettings, *, device: str | torch.device = "cpu", trainable: bool = False
) -> LoadedModel:
    """The model of `settings` on `device`, in evaluation mode, its parameters frozen unless
    `trainable`.

    Raises ValueError where the model cannot be opened, lacks weights, has an architecture that
    the rollout engine cannot serve, or names no end id.
    """
    source = locate(settings.path)
    with _quiet():
        config = _open(AutoConfig, source, settings.path)
        refuse_unserved(config, name=settings.path)
        tokenizer = _open(AutoTokenizer, source, settings.path)
        model, report = _open(
            AutoModelForCausalLM,
            source,
            settings.path,
            dtype=DTYPES[settings.dtype],
            attn_implementation=settings.attention,
            output_loading_info=True,
        )
    _refuse_incomplete(report, name=settings.path)
    head_form(model.config)
    rows = output_layer(model).weight.shape[0]
    end_ids = end_ids_of(model, settings)
    if max(end_ids) >= rows:
        raise ValueError(
            f"end id {max(end_ids)} of model {settings.path!r} is outside its head of {rows} rows: "
            "name ids of this model in end_ids"
        )
    model.requires_grad_(trainable).eval().to(device)
    if model.config.model_type not in TESTED:
        check_cached_forward(model, name=settings.path)
    return LoadedModel(model, tokenizer, end_ids, settings)


def locate(path: str) -> str:
    """The folder or hub id that `path` names. A path that can only be a folder must exist."""
    if path.startswith("embedded:"):
        if path not in EMBEDDED:
            raise ValueError(
                f"there is no embedded model {path!r}: use {' or '.join(sorted(EMBEDDED))}"
            )
        return str(EMBEDDED[path])
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    parts = folder.parts
    # A hub id is `name` or `owner/name`; below an existing local folder it is a path mistyped.
    below = len(parts) > 2 or (len(parts) == 2 and Path(parts[0]).is_dir())
    if below or not parts or path.startswith(("/", ".", "~")):
        raise ValueError(f"the model folder {path!r} does not exist: check the path")
    return path


def refuse_unserved(config: PreTrainedConfig, *, name: str) -> None:
    """Raise ValueError for architectures whose cache the rollout engine cannot keep yet: it
    overwrites and masks single slots of a key-value cache that spans the whole context."""
    text = config.get_text_config()
    fields: dict[str, Any] = text.to_dict()
    kinds = set(fields.get("layer_types") or ())
    problem = None
    if config.is_encoder_decoder:
        problem = "is an encoder-decoder"
    elif kinds - {"full_attention"}:
        problem = f"has layers of kind {', '.join(sorted(kinds - {'full_attention'}))}"
    elif not kinds and fields.get("sliding_window") is not None:
        problem = f"has sliding-window attention (window {fields['sliding_window']})"
    elif text.model_type in RECURRENT:
        problem = "keeps a recurrent state instead of a key-value cache"
    elif text.model_type in ALIBI or fields.get("alibi"):
        problem = "takes positions from its mask (ALiBi)"
    if problem is not None:
        raise ValueError(
            f"model {name!r} ({config.model_type}) {problem}, which the rollout engine cannot "
            "serve yet: use a decoder whose layers all have full attention, such as Qwen3 or Llama"
        )


ALIBI = frozenset({"bloom", "mpt"})

# Types that do not declare their recurrence in `layer_types`.
RECURRENT = frozenset(
    {"bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "mamba", "mamba2"}
    | {"nemotron_h", "recurrent_gemma", "rwkv", "xlstm", "zamba", "zamba2"}
)


def end_ids_of(model: PreTrainedModel, settings: ModelSettings) -> tuple[int, ...]:
    """End ids: the recipe's, else the generation configuration's, else the model
    configuration's; never the tokenizer's, which for some base models names the chat id."""
    if settings.end_ids is not None:
        return settings.end_ids
    generation = model.generation_config
    found = None if generation is None else generation.eos_token_id
    if found is None:
        found = model.config.get_text_config().to_dict().get("eos_token_id")
    if found is None or found == []:
        raise ValueError(
            f"model {settings.path!r} names no end id in its generation_config.json or "
            "config.json: name its end_ids in the recipe"
        )
    return (found,) if isinstance(found, int) else tuple(dict.fromkeys(found))


def _refuse_incomplete(report: dict[str, Any], *, name: str) -> None:
    # transformers fills absent weights at random and only warns.
    absent = sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))
    if absent:
        raise ValueError(
            f"the weights of model {name!r} lack {len(absent)} tensors of its configuration, such "
            f"as {absent[0]}: save the model again or correct its config.json"
        )


def _open(kind: Any, source: str, name: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        fix = (
            "check the files of that folder"
            if Path(source).is_dir()
            else "it is no folder here, so check the spelling of the hub id and the connection"
        )
        raise ValueError(f"cannot open model {name!r} ({reason}): {fix}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    # Progress bars and notices of a library are not this program's output; whatever matters in
    # them (absent weights) is checked by hand.
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
