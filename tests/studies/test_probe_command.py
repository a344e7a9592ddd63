"""`tandem probe` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tandem.behaviours import Student, TrustRegionBlend
from tandem.cli import app
from tandem.front.probing import behaviours_of, label_of, lengths_of
from tandem.training.config import load_config
from tandem.training.own_recipes import recipe_path
from tandem.types import Clock

TINY = ("task.train_size=100", "task.validation_size=20", "task.test_size=50",
        "rollout.max_new_tokens=16")  # fmt: skip


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["probe", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_it_prints_a_table_and_writes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(
        "arithmetic", *TINY, "--lengths", "2,16", "--problems", "4", "--samples", "1",
        "--behaviour", "fixed_budget_blend budget=0.5",
    )  # fmt: skip
    assert code == 0, err
    data = json.loads(Path("runs/arithmetic-trb-probe/probe.json").read_text())
    assert data["schema"] == 1 and data["task"] == "arithmetic" and data["seed"] == 0
    assert (data["model"], data["teacher"]) == ("embedded:student", "embedded:teacher")
    assert data["behaviours"] == [
        "student",
        "teacher",
        "trust_region_blend budget=0.03 warmup_steps=50",
        "fixed_budget_blend budget=0.5",
    ]
    assert (data["lengths"], data["problems"], data["samples"]) == ([2, 16], 4, 1)
    keys = {"behaviour", "length", "continued_by", "mean", "low", "high", "finished"}
    assert len(data["rows"]) == 4 * 2 * 2 and all(set(row) == keys for row in data["rows"])
    lines = out.splitlines()
    assert lines[0].split("  ")[0] == "behaviour"
    for label in data["behaviours"]:
        assert sum(line.startswith(label) for line in lines) == 2
    assert "4 test problems × 1" in out and out.rstrip().endswith("probe.json")


def test_the_same_command_gives_the_same_numbers(tmp_path: Path) -> None:
    found: list[bytes] = []
    for name in ("a", "b"):
        code, _, err = run(
            "arithmetic", *TINY, "--lengths", "3", "--problems", "3", "--samples", "2",
            "--output", str(tmp_path / name),
        )  # fmt: skip
        assert code == 0, err
        found.append((tmp_path / name / "probe.json").read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--lengths", "2,x"), "--lengths is '2,x'; give numbers of tokens such as 2,4,8"),
        (("--lengths", "99"), "from 0 to rollout.max_new_tokens (16): name such"),
        (("--split", "tset"), "split is 'tset'; a task has train, validation, test"),
        (("--behaviour", "studnt"), "did you mean 'student'?"),
        (("--behaviour", "teacher_prefix"), "is no behaviour that draws its tokens"),
        (("--behaviour", "reverse_kl"), "'reverse_kl' is no behaviour that draws its tokens"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    code, out, err = run("arithmetic", *TINY, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("tandem: ") and err.count("\n") == 1 and sentence in err


def test_by_default_cuts_are_parts_of_the_longest_response() -> None:
    assert lengths_of(None, limit=7168) == [448, 896, 1792, 3584]
    assert lengths_of(None, limit=4) == [1, 2]
    assert lengths_of("8, 2", limit=16) == [8, 2]


def test_every_phase_is_probed_at_its_own_first_clock() -> None:
    phases = (
        "[{until_step: 40, behaviour: {kind: trust_region_blend, budget: 0.1, warmup_steps: 20}}, "
        "{until_step: 60, behaviour: {kind: teacher_prefix}}]"
    )
    config = load_config(recipe_path("arithmetic"), [f"phases={phases}", "behaviour.kind=student"])
    found, notes = behaviours_of(
        config, ["student", "speculative_kd top_k=4 teacher_temperature=1"]
    )
    assert [one.label for one in found] == [
        "student",
        "teacher",
        "trust_region_blend budget=0.1 warmup_steps=20",
        "speculative_kd top_k=4 teacher_temperature=1.0",
    ]
    assert found[2].behaviour == TrustRegionBlend(budget=0.1, warmup_steps=20)
    assert found[2].clock == Clock(0, 40)
    assert len(notes) == 1 and notes[0].startswith("teacher_prefix")
    assert label_of(Student()) == "student"
