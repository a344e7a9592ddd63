"""environment.json: what a run ran on, so that its numbers can be understood later."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from typing import Any

import torch

from tandem.training.config import RunConfig
from tandem.training.parallel import World

_PACKAGES = ("tandem-opd", "torch", "transformers", "datasets", "numpy", "safetensors")


def environment(config: RunConfig, world: World, *, resumed_at: int) -> dict[str, Any]:
    """Versions, hardware, seed and command line. resumed_at: the step this session began after."""
    device = world.device
    cuda = device.type == "cuda"
    packages = list(_PACKAGES)
    if config.rollout.engine == "vllm":
        # Each device's build has a package name of its own; a checkout on the path has none.
        packages += packages_distributions().get("vllm", [])
    return {
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "seed": config.seed,
        "resumed_at": resumed_at,
        "git_commit": _git_commit(),
        "command": sys.argv,
    }


def _git_commit() -> str | None:
    """The commit of the working folder, if it is a git checkout and git is there."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
