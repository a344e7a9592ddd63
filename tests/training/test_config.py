"""Recipes: what they resolve to, and the sentence each mistake gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from tandem.behaviours import AnyBehaviour, FixedBudgetBlend, Student, TrustRegionBlend
from tandem.objectives import AnyObjective
from tandem.settings import Settings
from tandem.tasks import AnyTask
from tandem.training.components import UNIONS, kinds
from tandem.training.config import (
    RunConfig,
    apply_overrides,
    config_from_dict,
    dump_config,
    load_config,
)


@pytest.fixture
def load(recipe: dict[str, Any], tmp_path: Path) -> Callable[..., RunConfig]:
    def load(*overrides: str) -> RunConfig:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return load_config(path, overrides)

    return load


def test_the_resolved_recipe_loads_back_equal(
    load: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = load()
    (tmp_path / "resolved.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "resolved.yaml") == config


def test_overrides_are_yaml_and_reach_every_section(load: Callable[..., RunConfig]) -> None:
    config = load(
        "seed=3",
        "optimizer.lr=1e-5",
        "student.end_ids=[1, 2]",
        "optimizer.clip_norm=null",
        "training.gradient_checkpointing=true",
        "tracker.kind=none",
        "evaluation=null",
    )
    assert config.seed == 3
    assert config.optimizer.lr == 1e-5
    assert config.student.end_ids == (1, 2)
    assert config.optimizer.clip_norm is None
    assert config.training.gradient_checkpointing
    assert config.evaluation is None


def test_another_kind_starts_its_section_afresh(load: Callable[..., RunConfig]) -> None:
    assert load("behaviour.kind=student").behaviour == Student()
    assert load("behaviour=student").behaviour == Student()
    kept = load("behaviour.kind=trust_region_blend", "behaviour.budget=0.01").behaviour
    assert kept == TrustRegionBlend(budget=0.01, warmup_steps=4)


def test_what_is_said_of_a_kind_counts_before_and_after_its_name(
    load: Callable[..., RunConfig],
) -> None:
    wanted = FixedBudgetBlend(budget=0.5)
    assert load("behaviour.budget=0.5", "behaviour.kind=fixed_budget_blend").behaviour == wanted
    assert load("behaviour.budget=0.5", "behaviour=fixed_budget_blend").behaviour == wanted
    assert load("behaviour.kind=fixed_budget_blend", "behaviour.budget=0.5").behaviour == wanted
    # Trackers share their keys, so another kind keeps them.
    tracker = load("tracker={kind: none, project: mine}", "tracker.kind=wandb").tracker
    assert (tracker.kind, tracker.project) == ("wandb", "mine")


def test_overrides_leave_the_mapping_they_are_given_alone() -> None:
    data = {"a": {"b": 1}}
    assert apply_overrides(data, ["a.b=2"]) == {"a": {"b": 2}}
    assert data == {"a": {"b": 1}}


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"^no recipe 'no/such\.yaml'; give the path of a YAML"):
        load_config("no/such.yaml")


def test_text_that_is_no_yaml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: [1,\n")
    with pytest.raises(
        ValueError, match=r"broken\.yaml is not valid YAML: line 2, column 1: expected the node"
    ):
        load_config(path)
    # Where the mistake is, and not where the list began.
    path.write_text("seed: 1\nname: [1, 2\nbase: 3\n")
    with pytest.raises(ValueError, match=r"not valid YAML: line 3, column 5: expected ',' or ']'"):
        load_config(path)
    for text, said in (
        ("name: 2026-02-30", "day is out of range for month"),
        ("name: !!timestamp x", "a value is not what its tag says"),
        ("- " * 3000, "its groups are nested too deeply"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"broken\.yaml is not valid YAML: {said}$"):
            load_config(path)
    path.write_text("name: a\x00b\n")
    with pytest.raises(ValueError, match=r"broken\.yaml is not valid YAML: unacceptable charact"):
        load_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"broken\.yaml is not valid YAML: .*can't decode byte"):
        load_config(path)
    path.write_text("# nothing yet\n")
    with pytest.raises(ValueError, match=r"broken\.yaml is empty, but a recipe is a group of keys"):
        load_config(path)
    path.write_text("- 1\n")
    with pytest.raises(ValueError, match=r"broken\.yaml holds list, but a recipe is a group of ke"):
        load_config(path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "rollout.slot=3",
            "unknown key 'rollout.slot' in override 'rollout.slot=3'; did you mean 'slots'\\?$",
        ),
        ("optimiser.lr=1", "unknown key 'optimiser' in .*; did you mean 'optimizer'?"),
        ("steps=5", "unknown key 'steps' in override 'steps=5'; did you mean 'training.steps'\\?$"),
        ("budget=1", "unknown key 'budget' in .*; did you mean 'behaviour.budget'\\?$"),
        (
            "warmup_steps=3",
            "unknown key 'warmup_steps' in .*; did you mean 'behaviour.warmup_steps' or "
            "'optimizer.warmup_steps'\\?$",
        ),
        ("operands=2", "unknown key 'operands' in .*; did you mean 'task.operands'\\?$"),
        # Of a phase, which is an item of a list: phases.until_step would be refused in turn.
        ("until_step=3", "unknown key 'until_step' in .*; known are "),
        ("path=x", "unknown key 'path' in .*; did you mean 'student.path' or 'teacher.path'"),
        ("seed=2026-02-30", "the value of override 'seed=2026-02-30' is not valid YAML: day is"),
        ("end_ids=[1]", "unknown key 'end_ids' in .*; did you mean 'student.end_ids' or 'teacher."),
        ("slot=3", "unknown key 'slot' in .*; known are "),
        ("behaviour.budgte=1", "unknown key 'behaviour.budgte' in .*; did you mean 'budget'?"),
        ("tracker.zzz=1", "unknown key 'tracker.zzz' in .*; known are kind, project"),
        (
            "optimizer.lr=fast",
            "optimizer.lr is 'fast' in override 'optimizer.lr=fast', but it should be a valid numb",
        ),
        ("rollout.slots=0", "rollout.slots is 0 in .*, but it should be greater than 0"),
        (
            "training.steps=2.5",
            "training.steps is 2.5 in .*, but it should be a valid integer, got a number with a "
            "fractional part",
        ),
        (
            "rollout.truncated=cut",
            "rollout.truncated is 'cut' in .*, but it should be 'keep' or 'drop'",
        ),
        ("rollout.truncated=null", "rollout.truncated is None in .*, but it should be 'keep' or"),
        (
            "student.end_ids=[1, x]",
            "student.end_ids.1 is 'x' in .*, but it should be a valid integer",
        ),
        ("rollout=5", "rollout is 5 in .*, but it should be a group of keys such as prompts_per_s"),
        (
            "behaviour.kind=trust_region",
            "behaviour.kind is 'trust_region' in .*, which is no behaviour; "
            "did you mean 'trust_region_blend'?",
        ),
        (
            "objective.kind=zzz",
            "objective.kind is 'zzz' in .*, which is no objective; known are reverse_kl",
        ),
        ("task=5", "task is 5 in .*, but it needs a kind: one of arithmetic"),
        (
            "behaviour.kind=nowhere.py:Mine",
            "behaviour.kind is 'nowhere.py:Mine', but there is no file 'nowhere.py' in the current "
            "folder or beside the recipe$",
        ),
        ("seed", "override 'seed' is not of the form section.key=value"),
        ("name.first=1", "override 'name.first=1' leads through 'name', which is 'tiny' and has"),
        ("seed=[", "the value of override 'seed=\\[' is not valid YAML"),
        ("name=../up", "name: '../up' is no folder name; use letters"),
        (
            "optimizer.warmup_steps=9",
            "optimizer.warmup_steps is 9, more than training.steps .6., so the peak rate would "
            "never be reached; give optimizer.warmup_steps=6 or less, or training.steps=9 or more$",
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence(
    load: Callable[..., RunConfig], override: str, said: str
) -> None:
    with pytest.raises(ValueError, match=f"^{said}") as raised:
        load(override)
    assert "\n" not in str(raised.value)


def test_a_section_that_is_left_out_is_named(recipe: dict[str, Any]) -> None:
    del recipe["rollout"]
    with pytest.raises(ValueError, match=r"^the configuration lacks 'rollout'; add it$"):
        config_from_dict(recipe)
    recipe["rollout"] = {"slots": 2}
    with pytest.raises(ValueError, match=r"^the configuration lacks 'rollout.prompts_per_step'; "):
        config_from_dict(recipe)


def test_a_sampled_loss_under_a_blend_is_refused_when_the_recipe_is_read(
    load: Callable[..., RunConfig],
) -> None:
    with pytest.raises(ValueError, match="trust_region_blend draws from another law"):
        load("objective.kind=reverse_kl", "objective={kind: reverse_kl, support: sampled}")
    load("objective={kind: reverse_kl, support: sampled}", "behaviour=student")


def test_no_component_has_more_than_twelve_fields_and_a_run_no_more_than_sixty(
    load: Callable[..., RunConfig],
) -> None:
    def sections(annotation: Any) -> Iterator[type[Settings]]:
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            yield annotation
        for inner in get_args(annotation):
            yield from sections(inner)

    counts: dict[type[Settings], int] = {}

    def count(cls: type[Settings]) -> None:
        inner = {name: list(sections(f.annotation)) for name, f in cls.model_fields.items()}
        # A kind names the component; it is no field of it.
        counts[cls] = sum(name != "kind" and not inner[name] for name in inner)
        assert counts[cls] <= 12, f"{cls.__name__} has {counts[cls]} fields"
        for part in {part for parts in inner.values() for part in parts} - {*UNIONS, *counts}:
            count(part)

    config = load()
    for cls in (RunConfig, type(config.task), type(config.behaviour), type(config.objective)):
        count(cls)
    # Student, teachers and reference are spoken of in the same eight fields, which count once.
    assert sum(counts.values()) <= 60, counts
    for union in (AnyTask, AnyBehaviour, AnyObjective):
        for cls in kinds(union).values():
            count(cls)


@pytest.mark.parametrize("block", ["fast", 0, -1, True, 2.5])
def test_a_block_is_auto_or_a_number_of_tokens(recipe: dict[str, Any], block: object) -> None:
    recipe["rollout"]["block"] = block
    with pytest.raises(ValueError) as refused:
        config_from_dict(recipe)
    assert str(refused.value) == (
        f"rollout.block is {block!r}: give auto, or how many tokens to draft, 1 or more"
    )
