"""A few digits that tell two models apart, also where both lie at the same path."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor
from transformers import PreTrainedModel

NUMBERS_READ = 64
"""Of each tensor, evenly spaced, its first and last among them."""


def fingerprint(model: PreTrainedModel) -> str:
    """Twelve hex digits of a model's configuration and weights, as they are loaded.

    Read are the name, the shape and `NUMBERS_READ` numbers of every tensor, which is instant for a
    model of any size and the same on every device and for every copy of the files, unlike their
    dates. Training moves practically all numbers of a tensor; an edit of a few by hand may go
    unseen.
    """
    digest = hashlib.sha256()
    config = model.config.to_diff_dict()
    del config["transformers_version"]  # that of this program, not of the model
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {list(parameter.shape)}".encode())
        digest.update(_some(parameter.detach()).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _some(values: Tensor) -> Tensor:
    flat = values.flatten()
    count = min(len(flat), NUMBERS_READ)
    places = torch.arange(count, device=flat.device) * (len(flat) - 1) // max(count - 1, 1)
    return flat[places].cpu()
