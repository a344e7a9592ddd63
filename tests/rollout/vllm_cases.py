"""Where the tests of vLLM run: on a stand-in, everywhere, and on the real one where it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import fake_vllm
import pytest
import torch
from rollout_models import llama, qwen3
from torch import Tensor

from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment

# 13 shared ids of 40 rows. The student ends with 0, with 5, or with 20, which is a padded row; its
# teacher ends with 7.
SIZE, ENDS, TEACHER_ENDS = 13, (0, 5, 20), (7,)


REQUIRED = os.environ.get("TANDEM_REQUIRE_VLLM") == "1"
HERE = find_spec("vllm") is not None


def kinds(*real: str) -> list[str]:
    """The stand-in and, where vLLM is or must be, the real ones; one test skips for the others."""
    return ["fake", *(real if HERE or REQUIRED else ())]


@contextmanager
def there(kind: str) -> Iterator[None]:
    """vLLM can be imported: "real", or skip (or fail, where it must be there); or "fake"."""
    if kind == "fake":
        with pytest.MonkeyPatch.context() as patch:
            fake_vllm.install(patch)
            yield
        return
    if not HERE:
        if REQUIRED:
            pytest.fail("TANDEM_REQUIRE_VLLM=1 but vLLM is not installed")
        pytest.skip("vLLM is not installed (make test-vllm installs one for CPUs)")
    yield


def student(*, tied: bool, dtype: torch.dtype = torch.float32) -> Speaker:
    """A small student with every trap: several ends, aliases, padded rows, or a tied head."""
    sizes = {"head_dim": 32, "max_position_embeddings": 128}
    if tied:
        model = qwen3(3, vocabulary=40, sharpness=0.5, tie_word_embeddings=True, **sizes)
    else:
        model = llama(4, vocabulary=40, sharpness=3.0, **sizes)
    alignment = Alignment(size=SIZE, end_id=0, student_end_ids=ENDS, teacher_end_ids=TEACHER_ENDS)
    torch.nn.Module.to(model, dtype)
    return Speaker(model, own_end_ids=ENDS, alignment=alignment)


def change(speaker: Speaker, seed: int) -> None:
    """Weights as another update would leave them: every parameter, the head's too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in speaker.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * parameter.float().std().nan_to_num(0.1).clamp(min=0.1) * noise)


def law_by_hand(speaker: Speaker, prompt: tuple[int, ...], response: list[int]) -> Tensor:
    """[T, 13] probabilities in float64 at each position of the response, from the model's own
    softmax over all rows: ends added up, aliases and padded rows out, the rest in proportion."""
    with torch.no_grad():
        logits = speaker.model(torch.tensor([[*prompt, *response]])).logits[0]
    rows = torch.softmax(logits[len(prompt) - 1 : -1].double(), -1)
    law = rows[:, :SIZE].clone()
    law[:, 0] = rows[:, 0] + rows[:, 5] + rows[:, 20]
    law[:, 5] = 0.0
    law[:, 7] = 0.0
    return law / law.sum(1, keepdim=True)
