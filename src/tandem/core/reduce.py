"""Means over tokens that do not depend on how the tokens were split.

A metric travels as (sum, count). Chunks, micro-batches and processes add both parts; one division
happens at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class MetricSums:
    """Running (sum, count) per name, in float64, on the device where the parts are.

    Adding never waits for the device; `means` does.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, tuple[Tensor | float, Tensor | float]]) -> None:
        """Add one part: name -> (sum over its tokens, number of those tokens), scalars both."""
        for name, (total, count) in metrics.items():
            pair = _pair(total, count)
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def merge(self, other: MetricSums) -> None:
        """Add everything another accumulator holds."""
        for name, pair in other._sums.items():
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._sums))

    def means(self) -> dict[str, float]:
        """sum/count per name, sorted; a metric that counted nothing has no mean and is left out."""
        values = {name: self._sums[name].tolist() for name in self.names}
        return {name: total / count for name, (total, count) in values.items() if count != 0}

    def flat(self, names: Sequence[str], *, device: torch.device | None = None) -> Tensor:
        """[2M] float64: sum and count of each of M names in this order, 0 where nothing was added.

        device: where the tensor is made, the CPU by default.

        Processes that agree on the names can add these tensors up (all-reduce) and read the result
        back with `from_flat`. A name held here but missing from `names` would be lost: an error.
        """
        missing = sorted(set(self._sums) - set(names))
        assert not missing, f"metrics without a place in the flat tensor: {missing}"
        none = _pair(0.0, 0.0)
        parts = [self._sums.get(name, none).to(device or "cpu") for name in names]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=device)

    @classmethod
    def from_flat(cls, names: Sequence[str], flat: Tensor) -> MetricSums:
        """The accumulator whose `flat(names)` is this tensor."""
        assert flat.shape == (2 * len(names),), f"{tuple(flat.shape)} for {len(names)} names"
        sums = cls()
        sums._sums = {name: flat[2 * i : 2 * i + 2].double() for i, name in enumerate(names)}
        return sums


def _pair(total: Tensor | float, count: Tensor | float) -> Tensor:
    """[2] float64 from two scalars, without leaving their device."""
    parts = [
        part.detach().double()
        if isinstance(part, Tensor)
        else torch.tensor(part, dtype=torch.float64)
        for part in (total, count)
    ]
    device = next((p.device for p in (total, count) if isinstance(p, Tensor)), parts[0].device)
    return torch.stack([part.to(device) for part in parts])
