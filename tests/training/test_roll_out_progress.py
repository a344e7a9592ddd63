"""What is told of a roll-out while it goes on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tandem import run as api
from tandem.training.config import config_from_dict
from tandem.training.events import Event, Phase, StepDone


def test_tokens_are_told_before_any_response_has_ended(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    events: list[Event] = []
    config = config_from_dict(recipe)
    api.train(config, runs=tmp_path, listener=events.append)
    told = [e for e in events if isinstance(e, Phase) and e.step == 1 and e.name == "roll out"]
    tokens = [e.tokens for e in told if e.tokens is not None]
    assert len(tokens) == len(told) and tokens[0] == 0
    assert all(before <= after for before, after in pairwise(tokens))
    assert any(e.tokens and not e.done for e in told)
    first = next(e for e in events if isinstance(e, StepDone))
    responses = config.rollout.prompts_per_step * config.rollout.samples_per_prompt
    assert tokens[-1] == pytest.approx(first.metrics["rollout/length"] * responses)
    others = [e for e in events if isinstance(e, Phase) and e.name != "roll out"]
    assert others and all(e.tokens is None for e in others)
