"""Models inside a run's folder: `runs/x@final`, `runs/x@best`, `runs/x@step120`."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.checkpoint import state_dict_loader

from tandem.models.cast import load_cast
from tandem.models.loading import LoadedModel, load_model
from tandem.models.vocabulary import silenced_ids
from tandem.training.checkpoint import list_checkpoints
from tandem.training.config import RunConfig, load_config
from tandem.training.keeping import BEST, read_selected
from tandem.training.model_card import save_final

FINAL = "final"
EXPORTED = "models"
_STEP = re.compile(r"step-?0*(\d+)")


@dataclass(frozen=True, slots=True)
class Named:
    """What an argument names: a run's folder and which of its models, or no run at all."""

    path: str
    at: str | None

    @property
    def is_run(self) -> bool:
        return (Path(self.path) / "config.yaml").is_file()


def parse(model: str) -> Named:
    """`runs/x@best` as the folder and `best`; the model of a run alone is its final one.

    Raises ValueError where something other than a run is asked for one of its models.
    """
    path, at_sign, at = model.rpartition("@")
    # A folder's name may hold the sign itself.
    if not at_sign or Path(model).is_dir():
        return Named(model, None)
    named = Named(path, at)
    if not named.is_run:
        raise ValueError(
            f"{path} is no run (it holds no config.yaml), so it has no model {at!r}; give a run's "
            "folder, or leave the part after @ out"
        )
    return named


def folder_of(named: Named) -> Path:
    """The folder of a run's model, opened by `from_pretrained`.

    A checkpoint is written out as one first, into the run's models/, where it stays. Raises
    ValueError where the run does not keep that model, with those that it keeps.
    """
    run, at = Path(named.path), named.at or FINAL
    if at == FINAL:
        if not (run / FINAL).is_dir():
            raise ValueError(f"{run} has no final model yet; finish the run with --resume")
        return run / FINAL
    if at == BEST:
        if read_selected(run / BEST) is None:
            raise ValueError(
                f"{run} keeps no best model, as it was not watched on validation problems "
                f"(evaluation.split); it has {_kept(run)}"
            )
        return run / BEST
    found = _STEP.fullmatch(at)
    if found is None:
        raise ValueError(f"a run has no model {at!r}; {run} has {_kept(run)}")
    return _at_step(run, int(found[1]))


def _kept(run: Path) -> str:
    names = [f"@{name}" for name in (FINAL, BEST) if (run / name).is_dir()]
    folders = [*(run / EXPORTED).glob("step-*"), *list_checkpoints(run / "checkpoints")]
    steps = sorted({int(folder.name.rpartition("-")[2]) for folder in folders})
    return ", ".join([*names, *(f"@step{step}" for step in steps)]) or "none"


def _at_step(run: Path, step: int) -> Path:
    folder = run / EXPORTED / f"step-{step:06d}"
    if folder.is_dir():
        return folder
    checkpoint = run / "checkpoints" / folder.name
    if not checkpoint.is_dir():
        raise ValueError(
            f"{run} keeps no weights of step {step}; it has {_kept(run)} (training.save_every and "
            "training.keep_last say which checkpoints stay)"
        )
    config = load_config(run / "config.yaml")
    student = load_model(config.student)
    silenced = _silenced(run, config)
    _read_weights(checkpoint, student)
    folder.parent.mkdir(exist_ok=True)
    save_final(folder, student=student, silenced_ids=silenced, config=config, metrics={})
    return folder


def _read_weights(checkpoint: Path, student: LoadedModel) -> None:
    """Overwrite the student's parameters with those of a checkpoint, in the student's dtype."""
    own = dict(student.model.named_parameters())
    state = {"weight": {name: torch.empty(p.shape) for name, p in own.items()}}
    with warnings.catch_warnings():
        # That one process reads it alone is meant.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        state_dict_loader.load(state, checkpoint_id=checkpoint, no_dist=True)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state["weight"][name])


def _silenced(run: Path, config: RunConfig) -> list[int]:
    """The ids that the run's law never had: as a model of it that is there says, else by looking
    at the teachers' vocabularies, for which they are loaded."""
    for name in (FINAL, BEST):
        said = run / name / "generation_config.json"
        if said.is_file():
            return list(json.loads(said.read_bytes()).get("suppress_tokens") or ())
    cast = load_cast(config.student, config.teachers_by_name(), config.reference)
    return silenced_ids(cast.student, cast.align())
