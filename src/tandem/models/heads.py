"""What model families do to the output of their last linear layer.

The head runs on chunks of hidden states, outside the model's own `forward`, so what that forward
does between the linear layer and the logits has to be known by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class HeadForm:
    """logits = cap·tanh(scale·raw / cap), or scale·raw where there is no cap."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, raw: Tensor) -> Tensor:
        """Raw outputs of the linear layer, [..., rows] in fp32 or wider, as logits."""
        logits = raw if self.scale == 1.0 else raw * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


LINEAR = HeadForm()

# On a CPU the product of few fp32 rows with a large head is quicker the other way round, and then
# turned: up to so many rows on one thread and on several, from this many ids on (docs/log.md).
FEW_ROWS, FEW_ROWS_SHARED, MANY_IDS = 4, 32, 2**14


def _times(config: Any) -> HeadForm:
    return HeadForm(scale=config.logit_scale)


def _times_scaling(config: Any) -> HeadForm:
    return HeadForm(scale=config.logits_scaling)


def _over_scaling(config: Any) -> HeadForm:
    return HeadForm(scale=1.0 / config.logits_scaling)


def _capped(config: Any) -> HeadForm:
    return HeadForm(cap=config.final_logit_softcapping)


# Keyed by `model_type`. A type in neither table is taken as plainly linear, and loading then
# compares its head with its own forward before it is used.
FORMS: dict[str, Callable[[Any], HeadForm]] = {
    "cohere": _times,
    "cohere2": _times,
    "cohere2_moe": _times,
    "granite": _over_scaling,
    "granitemoe": _over_scaling,
    "granitemoeshared": _over_scaling,
    "hyperclovax": _times_scaling,
    "gemma2": _capped,
    "gemma3_text": _capped,
    "gemma4_text": _capped,
    "nanochat": _capped,
    "vaultgemma": _capped,
}
REFUSED: dict[str, str] = {
    "falcon_h1": "multiplies its logits inside the body",
    "inkling": "divides the hidden state and cuts its vocabulary",
    "inkling2": "soft-caps and cuts its vocabulary",
    "minicpm3": "divides the hidden state before the head",
    "modernbert-decoder": "has a head of several layers",
    "muse_glimmer": "multiplies and soft-caps its logits",
    "recurrent_gemma": "soft-caps under a name of its own",
    "xlstm": "soft-caps under a name of its own",
}

# Types whose head, positions and masked cache are compared with their own forward in our tests.
TESTED = frozenset({"cohere", "granite", "llama", "qwen2", "qwen3"})


def head_form(config: PreTrainedConfig) -> HeadForm:
    """The form of this model's head; ValueError for types whose head is known not to fit."""
    text = config.get_text_config()
    if text.model_type in REFUSED:
        raise ValueError(
            f"models of type {text.model_type} are not supported because the type "
            f"{REFUSED[text.model_type]}: use a model with a linear, scaled or soft-capped head"
        )
    return FORMS[text.model_type](text) if text.model_type in FORMS else LINEAR


def output_layer(model: PreTrainedModel) -> nn.Linear:
    """The last linear layer [rows, H]; ValueError where the head is something else."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"the head of {type(model).__name__} is a {type(head).__name__}, not a linear layer: "
            "use a causal language model with a linear head"
        )
    return head


def project(head: nn.Linear, hidden: Tensor) -> Tensor:
    """The head's outputs [..., R] for hidden states [..., H]: `head(hidden)`, up to rounding."""
    weight, rows = head.weight, math.prod(hidden.shape[:-1])
    plain = weight.device.type == "cpu" and weight.dtype == hidden.dtype == torch.float32
    # Whatever else the module does when it is called, it does when it is called.
    own = type(head) is nn.Linear and not head._forward_hooks and not head._forward_pre_hooks
    plain = plain and own and not torch.is_autocast_enabled("cpu")
    few = FEW_ROWS if torch.get_num_threads() == 1 else FEW_ROWS_SHARED
    if not (plain and 1 < rows <= few and len(weight) >= MANY_IDS):
        return head(hidden)
    product = (weight @ hidden.reshape(rows, -1).t()).t().contiguous()
    if head.bias is not None:
        product = product + head.bias
    return product.view(*hidden.shape[:-1], -1)
