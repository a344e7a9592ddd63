"""A stand-in for the parts of vLLM that the engine uses, with a transformers model inside.

The same calls and the same traps: random weights at the start, a tied head that keeps its old
weights unless it is named, prompts that stay cached until they are told to go, all rows of the
head, results in another order, and the process changed on the way: its global generators seeded,
its threads out of reach, its garbage frozen.
"""

from __future__ import annotations

import gc
import random
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM


@dataclass
class SamplingParams:
    max_tokens: int
    temperature: float
    seed: int
    logprobs: int
    stop_token_ids: list[int]
    ignore_eos: bool
    detokenize: bool
    flat_logprobs: bool


@dataclass
class _Asked:
    name: int
    prompt: tuple[int, ...]
    terms: SamplingParams


class LLM:
    def __init__(
        self, model: str, *, dtype: str, seed: int, logits_processors: list[type], **options: Any
    ) -> None:
        assert (
            options["load_format"] == "dummy" and options["logprobs_mode"] == "processed_logprobs"
        )
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        torch.set_num_threads = lambda count: None
        gc.freeze()
        config = AutoConfig.from_pretrained(model)
        # Its own copy of a tied head.
        config.tie_word_embeddings = False
        self.model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype)).eval()
        self.processors = [kind(None, torch.device("cpu"), False) for kind in logits_processors]
        self.waiting: list[_Asked] = []
        self.count = 0
        self.cached: dict[tuple[int, ...], Tensor] = {}
        core = SimpleNamespace(shutdown=self._shut_down)
        self.llm_engine = SimpleNamespace(
            has_unfinished_requests=lambda: bool(self.waiting), step=self._step, engine_core=core
        )

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any]) -> None:
        assert method == "reload_weights"
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in kwargs["weights_iterator"]:
                parameters[name].copy_(value)

    def _shut_down(self) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def reset_prefix_cache(self) -> None:
        self.cached.clear()

    def enqueue(self, prompts: list[Any], params: list[SamplingParams], *, use_tqdm: bool) -> None:
        del use_tqdm
        for prompt, terms in zip(prompts, params, strict=True):
            self.waiting.append(_Asked(self.count, tuple(prompt["prompt_token_ids"]), terms))
            self.count += 1

    def _step(self) -> list[Any]:
        # The last of those that wait; all of its tokens at once.
        asked = self.waiting.pop()
        generator = torch.Generator().manual_seed(asked.terms.seed)
        ids: list[int] = []
        flat = SimpleNamespace(start_indices=[], token_ids=[], logprobs=[])
        while len(ids) < asked.terms.max_tokens:
            logits = self._logits(asked.prompt, tuple(ids))
            for processor in self.processors:
                logits = processor.apply(logits)
            if asked.terms.temperature:
                logits = logits / asked.terms.temperature
            logp = torch.log_softmax(logits, -1)[0]
            noise = torch.empty_like(logp).exponential_(generator=generator)
            greedy = asked.terms.temperature == 0.0
            token = int((logp if greedy else logp.exp() / noise).argmax())
            ids.append(token)
            best = logp.topk(asked.terms.logprobs).indices.tolist()
            flat.start_indices.append(len(flat.token_ids))
            flat.token_ids += [token, *best]
            flat.logprobs += logp[[token, *best]].tolist()
            if token in asked.terms.stop_token_ids:
                break
        output = SimpleNamespace(token_ids=ids, logprobs=flat)
        return [SimpleNamespace(finished=True, request_id=str(asked.name), outputs=[output])]

    @torch.no_grad()
    def _logits(self, prompt: tuple[int, ...], ids: tuple[int, ...]) -> Tensor:
        if not ids and prompt in self.cached:
            return self.cached[prompt].clone()
        logits = self.model(torch.tensor([[*prompt, *ids]])).logits[:, -1].float()
        if not ids:
            self.cached[prompt] = logits.clone()
        return logits


def install(monkeypatch: pytest.MonkeyPatch, *, device: str = "cpu") -> None:
    """Let `import vllm` find this for as long as the patch lasts."""
    contents: dict[str, dict[str, Any]] = {
        "vllm": {"LLM": LLM, "SamplingParams": SamplingParams},
        "vllm.platforms": {"current_platform": SimpleNamespace(device_type=device)},
        "vllm.v1.sample.logits_processor": {"LogitsProcessor": object},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
