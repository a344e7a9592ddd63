"""Finding recipes by path and by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.training.own_recipes import own_recipes, recipe_path


def test_a_recipe_of_ours_is_found_by_name_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("arithmetic", "arithmetic.yaml", "recipes/arithmetic.yaml"):
        found = recipe_path(name)
        assert found.is_file() and found.name == "arithmetic.yaml"


def test_a_dot_in_a_name_is_not_taken_for_a_suffix() -> None:
    assert recipe_path("qwen3_1.7b_from_8b_trb") == own_recipes()["qwen3_1.7b_from_8b_trb"]


def test_a_file_of_the_users_comes_before_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arithmetic.yaml").write_text("name: mine\n")
    assert recipe_path("arithmetic.yaml") == Path("arithmetic.yaml")


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'arithmetc\.yaml'.*mean 'arithmetic'\?"):
        recipe_path("arithmetc.yaml")
    with pytest.raises(ValueError, match=r"no recipe 'zzz'.*ours are arithmetic, "):
        recipe_path("zzz")
    with pytest.raises(ValueError, match=r"did you mean 'papers/trb/0\.6b_from_4b_skd'\?$"):
        recipe_path("recipes/0.6b_from_4b_skdd.yaml")
    with pytest.raises(ValueError, match=r"^no recipe 'xxxx"):
        recipe_path("x" * 300)
