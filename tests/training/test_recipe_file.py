"""Recipes that extend others, and who is told of a mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem.behaviours import FixedBudgetBlend, Student, TrustRegionBlend
from tandem.training.config import config_from_dict, dump_config, load_config
from tandem.training.own_recipes import own_recipes
from tandem.training.recipe_file import read_recipe


@pytest.fixture
def base(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """base.yaml is the tiny recipe, and the current folder holds it."""
    monkeypatch.chdir(tmp_path)
    write("base.yaml", recipe)


def write(path: str, data: dict[str, Any]) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(yaml.safe_dump(data, sort_keys=False))


def test_a_recipe_says_only_what_it_changes(base: None, recipe: dict[str, Any]) -> None:
    write(
        "own.yaml",
        {"extends": "base.yaml", "name": "own", "rollout": {"slots": 3}, "evaluation": None},
    )
    config = load_config("own.yaml", ["seed=4"])
    expected = recipe | {
        "name": "own",
        "seed": 4,
        "rollout": recipe["rollout"] | {"slots": 3},
        "evaluation": None,
    }
    assert config == config_from_dict(expected)
    assert "extends" not in yaml.safe_load(dump_config(config))


def test_lists_are_replaced_and_not_joined(base: None) -> None:
    write("own.yaml", {"extends": "base.yaml", "student": {"end_ids": [1, 2]}})
    write("twice.yaml", {"extends": "own.yaml", "student": {"end_ids": [3]}})
    assert load_config("twice.yaml").student.end_ids == (3,)


def test_another_kind_starts_its_section_afresh(base: None) -> None:
    write("own.yaml", {"extends": "base.yaml", "behaviour": {"kind": "student"}})
    assert load_config("own.yaml").behaviour == Student()
    write("own.yaml", {"extends": "base.yaml", "behaviour": "student"})
    assert load_config("own.yaml").behaviour == Student()
    own = {"kind": "fixed_budget_blend", "budget": 0.5}
    write("own.yaml", {"extends": "base.yaml", "behaviour": own})
    assert load_config("own.yaml").behaviour == FixedBudgetBlend(budget=0.5)
    for same in ({"kind": "trust_region_blend", "budget": 0.5}, {"budget": 0.5}):
        write("own.yaml", {"extends": "base.yaml", "behaviour": same})
        assert load_config("own.yaml").behaviour == TrustRegionBlend(budget=0.5, warmup_steps=4)
    # A kind written as a word is a section that can be added to.
    write("bare.yaml", {"extends": "base.yaml", "task": "arithmetic"})
    write("own.yaml", {"extends": "bare.yaml", "task": {"train_size": 77}})
    assert load_config("own.yaml").task.model_dump()["train_size"] == 77
    # Trackers share their keys.
    write("mid.yaml", {"extends": "base.yaml", "tracker": {"project": "mine"}})
    write("own.yaml", {"extends": "mid.yaml", "tracker": {"kind": "wandb"}})
    assert load_config("own.yaml").tracker.project == "mine"


def test_chains_of_recipes_are_followed_from_each_ones_own_folder(base: None) -> None:
    write("a/mid.yaml", {"extends": "../base.yaml", "seed": 1, "rollout": {"slots": 2}})
    write("b/top.yaml", {"extends": "../a/mid.yaml", "seed": 2})
    config = load_config("b/top.yaml")
    assert (config.name, config.seed, config.rollout.slots) == ("tiny", 2, 2)


def test_a_class_beside_a_recipe_that_is_extended_is_found(base: None) -> None:
    write("a/mid.yaml", {"extends": "../base.yaml", "behaviour": "mine.py:Mine"})
    Path("a/mine.py").write_text(
        "from tandem.behaviours import Student\nclass Mine(Student): ...\n"
    )
    write("b/top.yaml", {"extends": "../a/mid.yaml"})
    assert load_config("b/top.yaml").behaviour.kind == "b/../a/mine.py:Mine"


def test_recipes_that_extend_each_other_are_refused(base: None) -> None:
    write("a.yaml", {"extends": "b.yaml"})
    write("b.yaml", {"extends": "c.yaml"})
    write("c.yaml", {"extends": "./a.yaml"})
    with pytest.raises(ValueError) as raised:
        read_recipe("a.yaml")
    assert str(raised.value) == (
        "recipes extend each other in a circle, a.yaml → b.yaml → c.yaml → ./a.yaml: leave one of "
        "those lines out"
    )
    write("d.yaml", {"extends": "a.yaml"})
    Path("linked.yaml").symlink_to("b.yaml")
    write("c.yaml", {"extends": "linked.yaml"})
    with pytest.raises(ValueError, match=r"in a circle, b\.yaml → c\.yaml → linked\.yaml: leave"):
        read_recipe("d.yaml")
    write("a.yaml", {"extends": "a.yaml"})
    with pytest.raises(ValueError) as raised:
        read_recipe("a.yaml")
    assert str(raised.value) == "a.yaml extends itself: leave that line out"
    write("arithmetic.yaml", {"extends": "arithmetic.yaml"})
    with pytest.raises(ValueError) as raised:
        read_recipe("arithmetic.yaml")
    assert str(raised.value) == (
        "arithmetic.yaml extends itself: leave that line out, or write 'arithmetic', which is "
        "tandem's own"
    )


def test_a_base_that_is_not_there_or_no_path_is_refused(base: None) -> None:
    write("a/own.yaml", {"extends": "base.yaml"})
    with pytest.raises(ValueError) as raised:
        read_recipe("a/own.yaml")
    assert str(raised.value) == (
        "a/own.yaml extends 'base.yaml', which is neither a file in its folder nor one of tandem's "
        f"own; ours are {', '.join(own_recipes())}"
    )
    write("a/own.yaml", {"extends": "arithmetc"})
    with pytest.raises(ValueError, match=r"tandem's own; did you mean 'arithmetic'\?$"):
        read_recipe("a/own.yaml")
    # A folder is no recipe, and a name longer than names can be is none either.
    Path("a/folder.yaml").mkdir()
    for name in ("folder.yaml", "", "x" * 300):
        write("a/own.yaml", {"extends": name})
        with pytest.raises(ValueError, match=r"which is neither a file in its folder nor one of"):
            read_recipe("a/own.yaml")
    write("own.yaml", {"extends": ["base.yaml"]})
    with pytest.raises(ValueError) as raised:
        read_recipe("own.yaml")
    assert str(raised.value) == (
        "extends is ['base.yaml'] in own.yaml, but it should be another recipe's path or name"
    )


def test_a_recipe_of_ours_is_extended_by_its_name_from_any_folder(base: None) -> None:
    ours = read_recipe(own_recipes()["arithmetic"]).data
    paper = "papers/trb/0.6b_from_4b_trb"
    write("a/own.yaml", {"extends": paper})
    assert read_recipe("a/own.yaml").data == read_recipe(own_recipes()[paper]).data
    for name in ("arithmetic", "arithmetic.yaml", "recipes/arithmetic.yaml"):
        write("a/own.yaml", {"extends": name, "name": "own"})
        assert read_recipe("a/own.yaml").data == ours | {"name": "own"}
    # A file beside it comes first, and one in the current folder is not meant.
    write("a/arithmetic.yaml", {"name": "mine"})
    write("arithmetic.yaml", {"name": "elsewhere"})
    write("a/own.yaml", {"extends": "arithmetic.yaml"})
    assert read_recipe("a/own.yaml").data == {"name": "mine"}
    write("a/own.yaml", {"extends": "arithmetic"})
    assert read_recipe("a/own.yaml").data == ours
    # A recipe that is called as ours does not mean itself by the bare name.
    write("a/arithmetic.yaml", {"extends": "arithmetic", "name": "mine"})
    assert read_recipe("a/arithmetic.yaml").data == ours | {"name": "mine"}


def said_of(path: str, *overrides: str) -> str:
    with pytest.raises(ValueError) as raised:
        load_config(path, overrides)
    return str(raised.value)


def test_a_mistake_is_told_of_the_file_or_override_that_made_it(
    base: None, recipe: dict[str, Any]
) -> None:
    write("broken.yaml", recipe | {"rollout": recipe["rollout"] | {"slots": 0, "slot": 1}})
    write("own.yaml", {"extends": "broken.yaml", "optimizer": {"lr": "fast"}})
    assert said_of("own.yaml") == (
        "unknown key 'rollout.slot' in broken.yaml; did you mean 'slots'?"
    )
    write("broken.yaml", recipe | {"rollout": recipe["rollout"] | {"slots": 0}})
    assert said_of("own.yaml") == (
        "rollout.slots is 0 in broken.yaml, but it should be greater than 0"
    )
    start = "optimizer.lr is 'fast' in own.yaml, but it should be a valid number"
    assert said_of("own.yaml", "rollout.slots=2") == start
    assert said_of("own.yaml", "rollout.slots=2", "optimizer.lr=1", "seed=x") == (
        "seed is 'x' in override 'seed=x', but it should be a valid integer"
    )
    # Of several the last.
    assert said_of("base.yaml", "seed=1", "seed=x", "name=ok").startswith("seed is 'x' in overri")


def test_what_a_kind_lacks_is_told_of_whoever_named_the_kind(base: None) -> None:
    assert said_of("base.yaml", "behaviour.kind=fixed_budget_blend") == (
        "override 'behaviour.kind=fixed_budget_blend' lacks 'behaviour.budget'; add it"
    )
    write("own.yaml", {"extends": "base.yaml", "behaviour": {"kind": "fixed_budget_blend"}})
    assert said_of("own.yaml") == "own.yaml lacks 'behaviour.budget'; add it"
    assert said_of("base.yaml", "rollout={slots: 2}") == (
        "override 'rollout={slots: 2}' lacks 'rollout.prompts_per_step'; add it"
    )
    write("bare.yaml", {"extends": "base.yaml", "evaluation": None})
    assert said_of("bare.yaml", "evaluation.every=3") == (
        "override 'evaluation.every=3' lacks 'evaluation.problems'; add it"
    )
    assert said_of("base.yaml", "behaviour=studnt") == (
        "behaviour.kind is 'studnt' in override 'behaviour=studnt', which is no behaviour; did you "
        "mean 'student'?"
    )


def test_what_the_page_on_recipes_shows_loads(recipe: dict[str, Any]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    blocks = [yaml.safe_load(b) for b in re.findall(r"```yaml\n(.*?)```", text, flags=re.S)]
    shown = {key: block for block in blocks for key in block}
    training = {"training": {"steps": 100}}
    line = config_from_dict(recipe | training | shown["phases"]).timeline()
    assert [(s.start, s.end) for s in line.stretches] == [(0, 50), (50, 100)]
    assert (line.at(0).objective.kind, line.at(50).prompts) == ("supervised", 0)
    del recipe["teacher"]
    config = config_from_dict(recipe | shown["teachers"])
    assert (list(config.teachers), config.residency) == (["math", "code"], "one")


def test_whole_sections_come_before_what_is_said_of_their_keys(base: None) -> None:
    blend = "behaviour={kind: fixed_budget_blend, budget: 0.1}"
    for overrides in ((blend, "behaviour.budget=0.5"), ("behaviour.budget=0.5", blend)):
        assert load_config("base.yaml", overrides).behaviour == FixedBudgetBlend(budget=0.5)
