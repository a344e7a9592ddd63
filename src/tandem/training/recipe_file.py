"""A recipe as plain data: its YAML, the recipes it extends and the overrides over it, and which of
them said what, so that a mistake is told of the one that made it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tandem.training.own_recipes import find_recipe, nearest, own_recipes

# Sections that choose a class by `kind`; written as that word alone where it needs nothing else.
COMPONENTS = ("task", "behaviour", "objective")
# Its kinds share their keys, so another one keeps them.
KEEPS_ITS_KEYS = ("tracker",)


@dataclass(frozen=True, slots=True)
class Source:
    """Where values come from.

    name: the recipe, as messages call it. places: dotted key to whoever else said it.
    folders: where the files that it names may lie, besides the current folder.
    """

    name: str
    places: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()

    def of(self, place: str) -> str:
        """Who said the dotted key `place`, or the group of keys around it."""
        while place:
            if place in self.places:
                return self.places[place]
            place = place.rpartition(".")[0]
        return self.name


@dataclass(frozen=True, slots=True)
class Recipe:
    """Plain data, as YAML has it, and where it comes from."""

    data: dict[str, Any]
    source: Source


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path`, over those that it `extends`, with `section.key=value` overrides.

    Raises ValueError with one sentence: no such file, not YAML, no group of keys, recipes that
    extend each other, an override that means nothing.
    """
    return override(_read(Path(path), above=()), overrides)


def _read(path: Path, *, above: tuple[Path, ...]) -> Recipe:
    """above: the recipes that extend this one, the first of them first."""
    own = _parse_file(path)
    source = Source(str(path), folders=(path.parent,))
    if "extends" not in own:
        return Recipe(own, source)
    named = own.pop("extends")
    if not isinstance(named, str):
        raise ValueError(
            f"extends is {named!r} in {path}, but it should be another recipe's path or name"
        )
    below = find_recipe(named, path.parent)
    if below is None:
        raise ValueError(
            f"{path} extends {named!r}, which is neither a file in its folder nor one of tandem's "
            f"own; {nearest(named)}"
        )
    chain = (*above, path)
    circle = [recipe.resolve() for recipe in chain]
    if below.resolve() == path.resolve():
        raise ValueError(f"{path} extends itself: leave that line out{_or_ours(named)}")
    if below.resolve() in circle:
        round_about = " → ".join(map(str, (*chain[circle.index(below.resolve()) :], named)))
        raise ValueError(
            f"recipes extend each other in a circle, {round_about}: leave one of those lines out"
        )
    base = _read(below, above=chain)
    data, places = base.data, {p: base.source.of(p) for p in _places(base.data)}
    _merge(data, own, places, by=str(path))
    return Recipe(data, Source(str(path), places, (*source.folders, *base.source.folders)))


def _or_ours(named: str) -> str:
    """The end of a sentence to whoever meant our recipe and wrote the name of their own file."""
    ours = named.removesuffix(".yaml")
    return f", or write {ours!r}, which is tandem's own" if ours in own_recipes() else ""


def _parse_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"no recipe {str(path)!r}; give the path of a YAML file")
    try:
        data = _parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if data is None:
        raise ValueError(f"{path} is empty, but a recipe is a group of keys")
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds {type(data).__name__}, but a recipe is a group of keys")
    return data


def _parse_yaml(text: str) -> Any:
    """Plain data. Raises ValueError that says where the text is wrong and how."""
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ValueError(f"{where}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (AttributeError, TypeError):
        # A tag on what it cannot be: `!!timestamp x`.
        raise ValueError("a value is not what its tag says") from None
    except RecursionError:
        raise ValueError("its groups are nested too deeply") from None


def _places(data: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """Every dotted key of nested groups, the groups too."""
    for key, value in data.items():
        yield f"{within}{key}"
        if isinstance(value, Mapping):
            yield from _places(value, f"{within}{key}.")


def _merge(
    data: dict[str, Any],
    over: Mapping[str, Any],
    places: dict[str, str],
    *,
    by: str,
    within: str = "",
) -> None:
    """Write `over` into `data`, group by group, and into `places` that `by` said it."""
    for key, value in over.items():
        place = f"{within}{key}"
        if isinstance(value, Mapping) and isinstance(data.get(key), str) and key in COMPONENTS:
            data[key] = {"kind": data[key]}
        old = data.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict):
            if "kind" in value and _is_another_kind(old, value["kind"], place):
                old.clear()
                _forget(places, place)
            _merge(old, value, places, by=by, within=f"{place}.")
        else:
            data[key] = deepcopy(value)
            _forget(places, place)
        places[place] = by


def _is_another_kind(group: Any, kind: Any, place: str) -> bool:
    """Whether `group` is one of another kind, so that its keys mean nothing to this one."""
    if not isinstance(group, dict) or place in KEEPS_ITS_KEYS:
        return False
    return group.get("kind") not in (None, kind)


def _forget(places: dict[str, str], place: str) -> None:
    for below in [p for p in places if p.startswith(f"{place}.")]:
        del places[below]


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `data` with each `a.b=value` set; see `override`."""
    return override(Recipe(data, Source("the configuration")), overrides).data


def override(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """A copy of `recipe` with each `a.b=value` set; items of a list are named by number, from 0.

    Naming another `kind` starts that group of keys afresh, whichever override comes first: the
    old kind's keys mean nothing to it.
    Raises ValueError for an override without "=" or one that leads through a plain value.
    """
    data, places = deepcopy(recipe.data), dict(recipe.source.places)
    for said in _in_order([_parse(text) for text in overrides]):
        place, section = ".".join(said.keys), ".".join(said.keys[:-1])
        group = _group_of(data, said, places)
        if said.keys[-1] == "kind" and _is_another_kind(group, said.value, section):
            group.clear()
            _forget(places, section)
            places[section] = said.name
        group[_key(group, said.keys[-1], said.text)] = said.value
        _forget(places, place)
        places[place] = said.name
    return Recipe(data, replace(recipe.source, places=places))


@dataclass(frozen=True, slots=True)
class _Override:
    text: str
    keys: tuple[str, ...]
    value: Any

    @property
    def name(self) -> str:
        return f"override {self.text!r}"

    def is_within(self, other: _Override) -> bool:
        outer = len(other.keys)
        return len(self.keys) > outer and self.keys[:outer] == other.keys


def _parse(text: str) -> _Override:
    dotted, equals, value = text.partition("=")
    keys = tuple(dotted.strip().split("."))
    if not equals or not all(keys):
        raise ValueError(f"override {text!r} is not of the form section.key=value")
    try:
        return _Override(text, keys, _parse_yaml(value))
    except ValueError as error:
        raise ValueError(f"the value of override {text!r} is not valid YAML: {error}") from None


def _in_order(overrides: list[_Override]) -> list[_Override]:
    """Kinds and whole groups first, outer before inner, so that what is said of them besides is not
    forgotten with the old kind's keys; then the rest as it was given."""

    def rank(one: _Override) -> tuple[bool, int]:
        if one.keys[-1] == "kind":
            return False, len(one.keys) - 1
        whole = isinstance(one.value, str | Mapping) and any(o.is_within(one) for o in overrides)
        return (False, len(one.keys)) if whole else (True, 0)

    return sorted(overrides, key=rank)


def _group_of(data: dict[str, Any], said: _Override, places: dict[str, str]) -> Any:
    """The mapping or list that holds the override's last key; groups on the way are made."""
    inner: Any = data
    for depth, name in enumerate(said.keys[:-1], start=1):
        key = _key(inner, name, said.text)
        value = inner[key] if isinstance(inner, list) else inner.get(key)
        if value is None:
            value = {}
            places[".".join(said.keys[:depth])] = said.name
        elif isinstance(value, str) and name in COMPONENTS:
            value = {"kind": value}
        if not isinstance(value, dict | list):
            raise ValueError(
                f"override {said.text!r} leads through {name!r}, which is {value!r} and has no keys"
            )
        inner[key] = value
        inner = value
    return inner


def _key(group: Any, name: str, text: str) -> Any:
    """`name` as a key of a mapping, or as the number of an item of a list."""
    if not isinstance(group, list):
        return name
    if not name.isdecimal() or int(name) >= len(group):
        raise ValueError(
            f"override {text!r} means item {name!r} of a list of {len(group)}: they are counted "
            "from 0"
        )
    return int(name)
