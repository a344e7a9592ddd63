"""What a run writes as it goes: metrics.jsonl, samples.jsonl, and a tracker where one is named."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from tandem.training.config import RunConfig, plain_data


class LineLog:
    """A file of JSON objects, one per line, each with the "step" it belongs to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one line; it is in the file when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}, ensure_ascii=False) + "\n")

    def cut(self, last_step: int) -> None:
        """Forget lines after `last_step` and a half-written last line: a resumed run writes them
        again, and no step may stand twice."""
        if not self.path.exists():
            return
        kept = [line for line in whole_lines(self.path) if _step(line) <= last_step]
        partial = self.path.with_name(f".{self.path.name}")
        partial.write_bytes(b"".join(kept))
        os.replace(partial, self.path)

    def latest(self) -> dict[str, Any]:
        """The last value of each key but "step"; empty where there is no file."""
        values: dict[str, Any] = {}
        for line in whole_lines(self.path) if self.path.exists() else []:
            values |= json.loads(line)
        values.pop("step", None)
        return values


def whole_lines(path: Path) -> list[bytes]:
    """The finished lines of a log, as bytes: a last one may be cut within a character, and a
    completion may hold other line separators (U+2028), which end no line of JSON."""
    *whole, _ = path.read_bytes().split(b"\n")
    return [line + b"\n" for line in whole]


def _step(line: bytes) -> int:
    return int(json.loads(line)["step"])


class Tracker(Protocol):
    """Somewhere else that metrics go."""

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """The run folder is enough."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        del step, metrics

    def close(self) -> None:
        pass


class _Board:
    """wandb or trackio: both have init, log and finish."""

    def __init__(self, module: ModuleType, config: RunConfig) -> None:
        self._module = module
        self._module.init(
            project=config.tracker.project,
            name=config.name,
            config=plain_data(config),
            resume="allow",
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._module.log(metrics, step=step)

    def close(self) -> None:
        self._module.finish()


class _TensorBoard:
    def __init__(self, module: ModuleType, folder: Path) -> None:
        self._writer = module.SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def open_tracker(config: RunConfig, folder: Path, *, first: bool) -> Tracker:
    """The tracker that the recipe names; on the `first` rank, the others tell nobody.

    Raises ValueError where its package is missing.
    """
    kind = config.tracker.kind
    if kind == "none" or not first:
        return NoTracker()
    name = "torch.utils.tensorboard" if kind == "tensorboard" else kind
    try:
        module = import_module(name)
    except ImportError:
        raise ValueError(
            f"tracker.kind is {kind!r}, but {kind} is not installed; run "
            f"pip install 'tandem-opd[{kind}]' or set tracker.kind=none"
        ) from None
    return _TensorBoard(module, folder) if kind == "tensorboard" else _Board(module, config)
