"""Components within components, and classes from files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, SerializeAsAny

from tandem.behaviours import Behaviour, Student, Teacher
from tandem.front.evaluating import plan
from tandem.objectives import Objective, ReverseKL
from tandem.settings import Settings
from tandem.training.components import build
from tandem.training.config import RunConfig, config_from_dict, dump_config, load_config
from tandem.training.recipe_file import apply_overrides

# A loss around another loss, and a law around another law, as a user's file holds them.
WRAPPERS = """
from pydantic import SerializeAsAny
from tandem.behaviours import Behaviour, Student
from tandem.objectives import Objective, ReverseKL

class Wrapper(ReverseKL):
    strength: float = 1.0
    objective: SerializeAsAny[Objective]

class Plain(Student):
    kind: str = "plain"
    inner: Behaviour
"""


@pytest.fixture
def load(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunConfig]:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(WRAPPERS)

    def load(*overrides: str, **changes: Any) -> RunConfig:
        Path("recipe.yaml").write_text(yaml.safe_dump(recipe | changes))
        return load_config("recipe.yaml", overrides)

    return load


def wrapped(config: RunConfig) -> tuple[Objective, Objective]:
    outer = config.objective
    return outer, vars(outer)["objective"]


INNER = {"kind": "reverse_kl", "support": "full"}


def test_a_component_within_a_component_is_a_mapping_or_a_bare_kind(
    load: Callable[..., RunConfig],
) -> None:
    outer, inner = wrapped(load(objective={"kind": "mine.py:Wrapper", "objective": INNER}))
    assert (outer.kind, inner) == ("mine.py:Wrapper", ReverseKL(support="full"))
    _, bare = wrapped(load(objective={"kind": "mine.py:Wrapper", "objective": "reverse_kl"}))
    assert bare == ReverseKL()
    config = load(behaviour={"kind": "mine.py:Plain", "inner": "teacher"})
    assert vars(config.behaviour)["inner"] == Teacher()


def test_what_is_nested_is_written_whole_and_loads_back(load: Callable[..., RunConfig]) -> None:
    config = load(
        objective={"kind": "mine.py:Wrapper", "strength": 2, "objective": INNER},
        behaviour={
            "kind": "mine.py:Plain",
            "inner": {"kind": "fixed_budget_blend", "budget": 0.5},
        },
    )
    Path("again.yaml").write_text(dump_config(config))
    again = load_config("again.yaml")
    assert wrapped(again)[1] == ReverseKL(support="full")
    assert dump_config(again) == dump_config(config)
    assert yaml.safe_load(dump_config(config))["behaviour"]["inner"]["budget"] == 0.5


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (
            "revers_kl",
            "objective.objective.kind is 'revers_kl' in recipe.yaml, which is no objective; did "
            "you mean 'reverse_kl'?",
        ),
        (
            {"kind": "reverse_kl", "topk": 3},
            "unknown key 'objective.objective.topk' in recipe.yaml; did you mean 'top_k'?",
        ),
        (
            {"kind": "reverse_kl", "top_k": "many"},
            "objective.objective.top_k is 'many' in recipe.yaml, but it should be a valid integer",
        ),
        (
            {"support": "full"},
            "objective.objective is {'support': 'full'} in recipe.yaml, but it needs a kind: one "
            "of ",
        ),
        (
            {"kind": "mine.py:Wrapper"},
            "recipe.yaml lacks 'objective.objective.objective'; add it",
        ),
        (
            {"kind": "reverse_kl", "support": "full", "top_k": 3},
            "objective.objective: top_k is 3, but support full has no k: remove top_k, or use "
            "support student_topk or teacher_topk",
        ),
    ],
)
def test_a_mistake_within_carries_its_whole_place(
    load: Callable[..., RunConfig], inner: Any, said: str
) -> None:
    with pytest.raises(ValueError) as raised:
        load(objective={"kind": "mine.py:Wrapper", "objective": inner})
    assert str(raised.value).startswith(said)
    assert said.endswith("one of ") or str(raised.value) == said


def test_another_kind_within_starts_that_section_afresh(load: Callable[..., RunConfig]) -> None:
    deep = {"kind": "mine.py:Wrapper", "objective": {"kind": "mine.py:Wrapper", "objective": INNER}}
    for overrides in (
        ("objective.objective.kind=reverse_kl", "objective.objective.top_k=3"),
        ("objective.objective.top_k=3", "objective.objective.kind=reverse_kl"),
        ("objective.objective.top_k=3", "objective.objective=reverse_kl"),
    ):
        assert wrapped(load(*overrides, objective=deep))[1] == ReverseKL(top_k=3)
    # The outer kind comes before the inner one, in whichever order they are said.
    config = load(
        "objective.objective.kind=reverse_kl",
        "objective.objective.support=full",
        "objective.kind=mine.py:Wrapper",
    )
    assert wrapped(config)[1] == ReverseKL(support="full")


class Box(Settings):
    """Sections by name and by number."""

    laws: dict[str, SerializeAsAny[Behaviour]] = Field(default_factory=dict)
    losses: tuple[SerializeAsAny[Objective], ...] = ()


def test_mistakes_in_lists_and_mappings_of_components_name_the_item() -> None:
    data: Mapping[str, Any] = {"laws": {"a": "student"}, "losses": ["reverse_kl", {"kind": "x"}]}
    with pytest.raises(ValueError, match=r"^losses\.1\.kind is 'x' in it, which is no objective"):
        build(Box, data, place="", source="it")
    box = build(Box, {"laws": {"a": "student"}, "losses": [INNER]}, place="", source="it")
    assert box == Box(laws={"a": Student()}, losses=(ReverseKL(support="full"),))
    with pytest.raises(ValueError, match=r"^box\.laws\.b\.kind is 'z' in it, which is no behav"):
        build(Box, {"laws": {"b": "z"}}, place="box", source="it")
    with pytest.raises(ValueError, match=r"^losses is 5 in it, but it should be a valid tuple$"):
        build(Box, {"losses": 5}, place="", source="it")


def test_items_of_a_list_are_overridden_by_number() -> None:
    data = {"losses": [{"kind": "reverse_kl", "top_k": 2}, {"kind": "reverse_kl"}]}
    found = apply_overrides(data, ["losses.0.top_k=3", "losses.1.kind=other"])
    assert found == {"losses": [{"kind": "reverse_kl", "top_k": 3}, {"kind": "other"}]}
    for text in ("losses.2.top_k=3", "losses.last.top_k=3"):
        with pytest.raises(ValueError) as raised:
            apply_overrides(data, [text])
        assert str(raised.value) == (
            f"override {text!r} means item {text.split('.')[1]!r} of a list of 2: they are counted "
            "from 0"
        )


def test_a_class_from_a_file_is_of_the_kind_the_recipe_names(
    load: Callable[..., RunConfig],
) -> None:
    # Whatever the class declares or inherits: a packaged class's kind, its own, none.
    Path("mine.py").write_text(
        "from __future__ import annotations\n"
        "from typing import Literal\n"
        "from tandem.behaviours import FixedBudgetBlend, Student\n"
        "class Own(Student):\n"
        "    kind: Literal['own'] = 'own'\n"
        "    sharpness: float\n"
        "class Inherits(FixedBudgetBlend):\n"
        "    '''Somebody's.'''\n"
    )
    config = load("behaviour={kind: 'mine.py:Own', sharpness: 2}")
    assert config.behaviour.model_dump() == {"kind": "mine.py:Own", "sharpness": 2.0}
    config = load("behaviour={kind: 'mine.py:Inherits', budget: 0.5}")
    assert config.behaviour.model_dump() == {"kind": "mine.py:Inherits", "budget": 0.5}
    assert type(config.behaviour).__doc__ == "Somebody's."
    Path("again.yaml").write_text(dump_config(config))
    assert load_config("again.yaml").behaviour.model_dump() == config.behaviour.model_dump()
    assert "mine" not in sys.modules


def test_a_class_that_is_not_there_or_not_whole_is_refused(load: Callable[..., RunConfig]) -> None:
    Path("mine.py").write_text(
        "from tandem.behaviours import Behaviour, Student\n"
        "class Half(Behaviour):\n"
        "    def author(self, clock):\n"
        "        return 0\n"
    )
    with pytest.raises(ValueError, match=r"mine\.py has no Behaviour Other$"):
        load("behaviour={kind: 'mine.py:Other'}")
    with pytest.raises(ValueError) as raised:
        load("behaviour=mine.py:Half")
    assert str(raised.value) == (
        "class Half in mine.py is no whole Behaviour: write its __call__, needs_teacher"
    )


def test_a_file_is_looked_for_here_and_then_beside_the_recipe(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from tandem.behaviours import Student\nclass Mine(Student):\n    n: int = {}\n"
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.py").write_text(text.format(1))
    own = recipe | {"behaviour": "mine.py:Mine"}
    (tmp_path / "study" / "own.yaml").write_text(yaml.safe_dump(own))
    monkeypatch.chdir(tmp_path)
    config = load_config("study/own.yaml")
    # What is written down is found from here.
    assert config.behaviour.model_dump() == {"kind": "study/mine.py:Mine", "n": 1}
    assert config_from_dict(yaml.safe_load(dump_config(config))).behaviour.model_dump()["n"] == 1
    Path("mine.py").write_text(text.format(2))
    assert load_config("study/own.yaml").behaviour.model_dump() == {"kind": "mine.py:Mine", "n": 2}


def test_a_run_is_evaluated_without_the_file_of_its_behaviour(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from tandem.behaviours import Student\nclass Mine(Student): ...\n")
    config = config_from_dict(recipe | {"behaviour": "mine.py:Mine"})
    folder = Path("runs/tiny")
    (folder / "final").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    Path("mine.py").unlink()
    chosen = plan(str(folder), task=None, overrides=["evaluation.problems=3"])
    assert chosen.model.path == str(folder / "final")
    assert (chosen.task, chosen.evaluation.problems) == (config.task, 3)
    assert (chosen.evaluation.split, chosen.evaluation.every) == ("test", 3)
    assert (chosen.limits.max_prompt_tokens, chosen.limits.slots) == (12, 6)
    assert chosen.limits.threads == 1
