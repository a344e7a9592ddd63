"""Small models made from nothing, or by taking layers out of another: how the embedded pair was.

Supervised next-token training on worked chains of arithmetic. The problem's tokens carry no loss
(its numbers are drawn at random, there is nothing to learn in them); the answer's do, and its end
token. Shapes: B texts, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from tandem.models.character import END_ID, PAD_ID, character_tokenizer
from tandem.models.loading import DTYPES, load_model
from tandem.models.settings import ModelSettings
from tandem.settings import Settings
from tandem.tasks.arithmetic import ALPHABET, Arithmetic
from tandem.training.components import build
from tandem.training.corpus import CorpusSettings, draw
from tandem.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from tandem.training.recipe_file import read_recipe
from tandem.training.sections import OptimizerSettings

IGNORED = -100
OnStep = Callable[[int, int, float], None]


class ShapeSettings(Settings):
    """A Qwen3 decoder with one matrix for embedding and head. context: its longest text."""

    hidden: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    intermediate: int = Field(gt=0)
    context: int = Field(default=128, gt=0)


class PruneSettings(Settings):
    """Another model with fewer layers. keep: which of its layers stay, from 0, in order."""

    path: str
    keep: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _keeps_layers_in_order(self) -> Self:
        if list(self.keep) != sorted(set(self.keep)) or self.keep[0] < 0:
            raise ValueError(
                f"keep is {list(self.keep)}, but layers stay in their order and once each: "
                "name them from 0, ascending"
            )
        return self


class PretrainSettings(Settings):
    """How a small model is made. Exactly one of `shape` (from random weights) and `prune` (from
    another model) says what it starts as.

    threads: of PyTorch; part of the result, since sums depend on it. task: its training problems
    are the corpus. steps may be 0: pruned and nothing else. dtype: of the saved weights (training
    is in fp32).
    """

    name: str
    seed: int = Field(default=0, ge=0, lt=2**31)
    threads: int = Field(default=1, gt=0)
    task: Arithmetic
    corpus: CorpusSettings = CorpusSettings()
    shape: ShapeSettings | None = None
    prune: PruneSettings | None = None
    steps: int = Field(ge=0)
    batch: int = Field(gt=0)
    optimizer: OptimizerSettings
    dtype: Literal["float32", "bfloat16"] = "bfloat16"

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if (self.shape is None) == (self.prune is None):
            given = "neither" if self.shape is None else "both"
            raise ValueError(
                f"the recipe gives {given} of shape and prune: give shape to start from random "
                "weights, or prune to start from another model"
            )
        return self


@dataclass(frozen=True, slots=True)
class PretrainResult:
    """folder: what `from_pretrained` opens. losses: one per step, nats per answer token."""

    folder: Path
    parameters: int
    losses: tuple[float, ...]


def load_pretrain_settings(path: str | Path, overrides: Sequence[str] = ()) -> PretrainSettings:
    """The settings a recipe describes, after `section.key=value` overrides.

    Raises ValueError with one sentence where there is no such file, or for a mistake in it.
    """
    recipe = read_recipe(path, overrides)
    return build(PretrainSettings, recipe.data, place="", source=recipe.source)


def pretrain(
    settings: PretrainSettings, *, output: Path, on_step: OnStep | None = None
) -> PretrainResult:
    """Make the model and write it, with its tokenizer, to the folder `output`.

    on_step: told (steps done, steps in all, loss) after each step. The same settings give the
    same weights on one machine (PyTorch promises no more across processors); no global state of
    random numbers is read or left changed, but PyTorch's number of threads is set.
    """
    torch.set_num_threads(settings.threads)
    model, tokenizer = _beginning(settings)
    problems = [prompt.text for prompt in settings.task.prompts("train")]
    optimizer = make_optimizer(model.parameters(), settings.optimizer)
    losses: list[float] = []
    model.train()
    for step in range(settings.steps):
        # Seeded by text, the same in every version of Python.
        source = Random(f"corpus {settings.seed} {step}")
        texts = draw(problems, settings.batch, settings.corpus, source)
        loss = answer_loss(model, *encode_texts(tokenizer, texts))
        rate = learning_rate(settings.optimizer, step=step, total_steps=settings.steps)
        set_learning_rate(optimizer, rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
        if on_step is not None:
            on_step(step + 1, settings.steps, losses[-1])
    model.eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(DTYPES[settings.dtype])
    model.config.dtype = DTYPES[settings.dtype]
    _save(model, tokenizer, output)
    return PretrainResult(output, model.num_parameters(), tuple(losses))


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]]
) -> tuple[Tensor, Tensor]:
    """Ids and labels [B, T] of (problem, answer) texts, right-padded and each with its end token;
    labels are IGNORED on the problem and the padding."""
    rows = [
        (tokenizer.encode(problem), [*tokenizer.encode(answer), END_ID])
        for problem, answer in texts
    ]
    longest = max(len(asked) + len(answered) for asked, answered in rows)
    ids_BT = torch.full((len(rows), longest), PAD_ID)
    labels_BT = torch.full((len(rows), longest), IGNORED)
    for row, (asked, answered) in enumerate(rows):
        end = len(asked) + len(answered)
        ids_BT[row, :end] = torch.tensor(asked + answered)
        labels_BT[row, len(asked) : end] = torch.tensor(answered)
    return ids_BT, labels_BT


def answer_loss(model: PreTrainedModel, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """Cross-entropy in nats, the mean over all answer tokens of the batch."""
    # Right padding under a causal mask: no attention mask is needed, nothing attends to it.
    logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    return F.cross_entropy(
        logits_BTV.flatten(0, 1).float(), labels_BT[:, 1:].flatten(), ignore_index=IGNORED
    )


def keep_layers(model: PreTrainedModel, keep: Sequence[int]) -> PreTrainedModel:
    """A new model with only the decoder layers `keep` of `model`, all other weights equal.

    Raises ValueError where a layer does not exist.
    """
    layers = model.config.num_hidden_layers
    if max(keep) >= layers:
        raise ValueError(
            f"layer {max(keep)} cannot be kept: the model has {layers} layers, numbered from 0"
        )
    config = deepcopy(model.config)
    fields = config.to_dict()
    config.num_hidden_layers = len(keep)
    if fields.get("layer_types"):
        config.layer_types = [fields["layer_types"][i] for i in keep]
    pruned = type(model)(config)
    weights: dict[str, Any] = {}
    for name, weight in model.state_dict().items():
        head, mark, tail = name.partition(".layers.")
        if mark:
            old, _, tail = tail.partition(".")
            if int(old) not in keep:
                continue
            name = f"{head}{mark}{list(keep).index(int(old))}.{tail}"
        weights[name] = weight
    pruned.load_state_dict(weights)
    return pruned


def _beginning(settings: PretrainSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if settings.prune is not None:
        loaded = load_model(ModelSettings(path=settings.prune.path))
        model = keep_layers(loaded.model, settings.prune.keep)
        return model.requires_grad_(True), loaded.tokenizer
    assert settings.shape is not None, "the settings hold shape or prune"
    tokenizer = character_tokenizer(ALPHABET)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = Qwen3ForCausalLM(_qwen3(settings.shape, rows=len(tokenizer)))
    return model, tokenizer


def _qwen3(shape: ShapeSettings, *, rows: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=rows,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        eos_token_id=END_ID,
        bos_token_id=None,
    )


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, output: Path) -> None:
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(output)
    finally:
        if bars:
            logging.enable_progress_bar()
    tokenizer.save_pretrained(output)
