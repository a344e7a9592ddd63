"""A step that trains on no token says so, once, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tandem.run import train
from tandem.training.config import RunConfig, config_from_dict
from tandem.training.events import Event, Note, StepDone
from tandem.training.idle import warn_of_idle_steps

PREFIX = {"kind": "teacher_prefix", "horizon": 2}
SAMPLED = {"kind": "reverse_kl", "support": "sampled"}


def told(config: RunConfig, *steps: dict[str, float]) -> list[Event]:
    """What a listener hears of these steps, the first one counted 1."""
    heard: list[Event] = []
    listen = warn_of_idle_steps(heard.append, config)
    for number, metrics in enumerate(steps, start=1):
        listen(StepDone(number, len(steps), metrics))
    return heard


def step(trained: float, *, truncated: float = 0.0, **more: float) -> dict[str, float]:
    known = {"train/trained_tokens": trained, "rollout/truncated": truncated}
    return known | {f"rollout/{name}": value for name, value in more.items()}


def test_a_step_that_trained_is_passed_on_without_a_word(recipe: dict[str, Any]) -> None:
    heard = told(config_from_dict(recipe), step(1.0), step(5.0))
    assert [type(event) for event in heard] == [StepDone, StepDone]


@pytest.mark.parametrize(
    ("changes", "metrics", "why"),
    [
        (
            {"truncated": "drop"},
            step(0.0, truncated=1.0),
            "all its responses hit rollout.max_new_tokens and rollout.truncated is drop: raise "
            "max_new_tokens, or keep them",
        ),
        (
            {"behaviour": PREFIX, "objective": SAMPLED},
            step(0.0, given=1.0),
            "all its tokens were given, and objective reverse_kl trains on drawn ones: let the "
            "behaviour give less, or use objective supervised",
        ),
        (
            {"behaviour": PREFIX, "objective": "supervised"},
            step(0.0, given=0.0),
            "none of its tokens was given, and objective supervised trains on the teacher's text: "
            "end the run there, or go on with another objective in a phase of its own",
        ),
        (
            {"truncated": "drop", "behaviour": PREFIX, "objective": SAMPLED},
            step(0.0, truncated=0.5, given=0.7),
            "objective reverse_kl gave all its tokens weight 0: see rollout/truncated and "
            "rollout/given in metrics.jsonl",
        ),
    ],
)
def test_the_first_step_that_trained_on_nothing_says_why(
    recipe: dict[str, Any], changes: dict[str, Any], metrics: dict[str, float], why: str
) -> None:
    changes = dict(changes)
    recipe["rollout"]["truncated"] = changes.pop("truncated", "keep")
    heard = told(config_from_dict(recipe | changes), step(3.0), metrics, metrics)
    assert [type(event) for event in heard] == [StepDone, Note, StepDone, StepDone]
    assert heard[1] == Note(
        f"step 2 trained on no token, so the student stayed as it was; {why}", warning=True
    )


def test_the_objective_is_that_of_the_steps_own_phase(recipe: dict[str, Any]) -> None:
    phases = [{"until_step": 1, "objective": "supervised"}, {"objective": SAMPLED}]
    config = config_from_dict(recipe | {"behaviour": PREFIX, "phases": phases})
    note = told(config, step(2.0, given=0.5), step(0.0, given=1.0))[1]
    assert isinstance(note, Note) and "objective reverse_kl trains on drawn ones" in note.text


def test_a_run_past_its_teachers_text_warns_and_logs_0(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    changes = {
        "behaviour": PREFIX | {"prefix": "max"},
        "objective": "supervised",
        "training": {"steps": 4},
        "evaluation": None,
    }
    heard: list[Event] = []
    result = train(config_from_dict(recipe | changes), runs=tmp_path, listener=heard.append)
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    given = [r["rollout/given"] * 8 * r["rollout/length"] for r in rows]
    assert [r["train/trained_tokens"] for r in rows] == pytest.approx(given)
    assert given[1] > 0.0 and given[2:] == [0.0, 0.0]
    (warning,) = [e for e in heard if isinstance(e, Note) and e.warning and "no token" in e.text]
    assert warning.text.startswith("step 3 trained on no token")
    assert heard.index(warning) < len(heard) - 1
