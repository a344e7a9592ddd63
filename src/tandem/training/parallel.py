"""The distributed engine: PyTorch's own. One process takes the same path with a world of one.

Under `torchrun` every rank holds a shard of the student (FSDP2) and its own share of the rollouts;
the frozen teacher and the copy of the student that rollouts decode with are whole on every rank.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from tandem.core.reduce import MetricSums

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, as one of them sees it."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh

    @property
    def first(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over ranks, in float64 on the CPU."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, value: float) -> float:
        """The largest `value` of any rank."""
        return float(self._reduce(torch.tensor([value]), dist.ReduceOp.MAX))

    def _reduce(self, values: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
        total = values.detach().to(device=self.device, dtype=torch.float64, copy=True)
        dist.all_reduce(total, op=op)
        return total.cpu()

    def total(self, sums: MetricSums) -> MetricSums:
        """Metric sums added up over ranks, on every rank; ranks may lack names."""
        names = sorted({name for part in self.gather(sums.names) for name in part})
        return MetricSums.from_flat(names, self.sum(sums.flat(names)))

    def gather(self, value: T) -> list[T]:
        """Every rank's `value`, in the order of ranks, on every rank."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Wait until every rank is here."""
        dist.barrier()


def resolve_device(name: str) -> torch.device:
    """ "auto", "cpu" or "cuda" as a device; under torchrun the local rank's GPU.

    Raises ValueError where CUDA is asked for and absent.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but PyTorch finds no CUDA device; use auto or cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def open_world(device: torch.device) -> Iterator[World]:
    """Join torchrun's processes, or be a world of one, for as long as the block lasts.

    Models, optimisers and graphs must be gone when the block ends: freeing them after the group
    is destroyed aborts the process at exit. After an error nobody waits for the other ranks.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    own = device if device.type == "cuda" else None
    if own is not None:
        torch.cuda.set_device(own)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend, device_id=own)
    else:
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]  # documented, public
        dist.init_process_group(backend, store=store, rank=0, world_size=1, device_id=own)
    try:
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        yield World(rank=dist.get_rank(), size=dist.get_world_size(), device=device, mesh=mesh)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def shard(
    root: nn.Module,
    *,
    layers: list[nn.Module],
    whole: nn.Module | None,
    compute_dtype: torch.dtype,
    world: World,
    methods: Sequence[str] = (),
) -> None:
    """Shard `root` in place: each of `layers` by itself, then everything else of it.

    whole: a part of root that stays plain (the frozen teachers). methods: names of methods of root
    that compute with its parameters, besides `forward`. compute_dtype: what the parameters
    are gathered in; gradients are reduced and kept in fp32, as the parameters themselves.
    Inputs are never cast: log-probs stay fp32.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in layers:
        fully_shard(layer, mesh=world.mesh, mp_policy=policy)
    plain = set() if whole is None else set(whole.parameters())
    fully_shard(root, mesh=world.mesh, mp_policy=policy, ignored_params=plain)
    for name in methods:
        register_fsdp_forward_method(root, name)


def synchronise_gradients(root: nn.Module, *, last: bool) -> None:
    """Whether the next backward is a step's last: FSDP then waits for all reductions.

    Every micro-batch reduces its gradient, so that no rank ever keeps an unsharded one.
    """
    assert isinstance(root, FSDPModule), "shard() comes first"
    root.set_is_last_backward(last)


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """The 2-norm of the whole gradient, all shards of all ranks: a CPU scalar, NaN if any is."""
    norms = [p.grad for p in parameters if p.grad is not None]
    total = nn.utils.get_total_norm(norms)
    return (total.full_tensor() if isinstance(total, DTensor) else total).detach().cpu()


def scale_gradients(parameters: list[nn.Parameter], factor: float) -> None:
    """Multiply every gradient in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Write the sharded parameters of `source` into the whole ones of `target`, cast to its dtype.

    Both are the same model class. Collective: every rank must call it.
    """
    into = dict(target.named_parameters())
    for name, parameter in source.named_parameters():
        value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        into.pop(name).copy_(value)
    assert not into, f"parameters without a source: {sorted(into)}"


def share(count: int, world: World) -> range:
    """The indices of 0 … count−1 that belong to this rank: every size-th from its own."""
    return range(world.rank, count, world.size)
