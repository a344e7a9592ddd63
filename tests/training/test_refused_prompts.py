"""What the engine refuses in a run is told of a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tandem.rollout.engine import Engine
from tandem.training.config import config_from_dict
from tandem.training.events import silent
from tandem.training.loop import roll_out
from tandem.training.parallel import open_world
from tandem.wiring import assemble


def test_a_refused_request_of_a_later_step_is_told_by_its_prompt(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    config = config_from_dict(recipe)
    with open_world(torch.device("cpu")) as world:
        run, _ = assemble(config, tmp_path, world, silent)
        asked = run.requests(3, world)
        # As a model would be whose doctor had not looked.
        assert isinstance(run.engine, Engine)
        run.engine.student.config.max_position_embeddings = 1
        with pytest.raises(ValueError, match="can never fit the student") as said:
            roll_out(run, config.timeline().at(3), 3)
        named = repr(run.requests.prompt_of(asked[0]).id)
        del run
    assert str(said.value).startswith(f"prompt {named} can never fit the student: ")
