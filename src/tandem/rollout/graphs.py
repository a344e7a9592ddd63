"""Rounds of a few fixed shapes, captured once as CUDA graphs and replayed.

A round in fixed shapes takes a bucket of rows and, for each model, a bucket of slots; rows without
a response are fed like the others and their results go nowhere. All it reads and writes lies in
buffers that stay where they are, so replaying it is all that a round costs the host.

On a GPU this has not been run yet. On a CPU the same shapes run without a graph (`repeated`), which
is how the tests know them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor

# The smallest bucket of slots, and the steps that all are multiples of.
SLOT_STEP = 64


class Runner(Protocol):
    """Does `work`, which has fixed shapes for a key, and gives what it gives."""

    def __call__(self, key: Hashable, work: Callable[[], Tensor]) -> Tensor: ...


def repeated(key: Hashable, work: Callable[[], Tensor]) -> Tensor:
    """Do it every time."""
    del key
    return work()


class Graphs:
    """The first time of a key it is simply done, which sets up libraries and buffers; the second
    time it is captured; from then on replayed. One pool of memory for all: they never overlap."""

    def __init__(self) -> None:
        self._met: set[Hashable] = set()
        self._made: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, key: Hashable, work: Callable[[], Tensor]) -> Tensor:
        if key not in self._met:
            self._met.add(key)
            return work()
        if key not in self._made:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                found = work()
            self._made[key] = graph, found
        graph, found = self._made[key]
        graph.replay()
        return found


def runner_on(device: torch.device) -> Runner | None:
    """Graphs on a GPU; None where shapes need not be fixed."""
    return Graphs() if device.type == "cuda" else None


def bucket_of_rows(live: int, most: int) -> int:
    """The least of most, most/2, most/4 … (rounded up) that holds the live rows."""
    found = most
    while found > 1 and -(-found // 2) >= live:
        found = -(-found // 2)
    return found


def bucket_of_slots(longest: int, most: int) -> int:
    """A multiple of 64 that holds `longest`, at most a fifth more than a smaller one."""
    found = SLOT_STEP
    while found < min(longest, most):
        found += max(SLOT_STEP, found // (5 * SLOT_STEP) * SLOT_STEP)
    return min(found, most)
