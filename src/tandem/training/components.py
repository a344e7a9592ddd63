"""From plain mappings to settings objects, with every mistake told in one sentence.

A component (task, behaviour, objective) is chosen by its `kind`: a name of ours, or
`my_method.py:MyClass` for a class in a file of the user's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError

from tandem.settings import Settings

S = TypeVar("S", bound=Settings)


def kinds(union: Any) -> dict[str, type[Settings]]:
    """The classes of a tagged union by the `kind` that names them in a recipe."""
    if get_origin(union) is Annotated:
        union = get_args(union)[0]
    members = get_args(union) if get_origin(union) in (Union, UnionType) else (union,)
    return {str(member.model_fields["kind"].default): member for member in members}


def _near(word: str, known: list[str]) -> str:
    """The end of a sentence: the nearest known word, or all of them."""
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def build(cls: type[S], data: Any, *, place: str, source: str) -> S:
    """`cls` from a mapping.

    place: dotted name of the section ("" for the run itself). source: what to call the recipe in
    messages. Raises ValueError with one sentence about the first mistake.
    """
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        raise ValueError(
            f"{place} is {data!r} in {source}, but it should be a group of keys such as "
            f"{', '.join(list(cls.model_fields)[:4])}"
        )
    try:
        return cls.model_validate(dict(data))
    except ValidationError as error:
        raise ValueError(_sentence(error, cls, place=place, source=source)) from None


def _sentence(error: ValidationError, cls: type[Settings], *, place: str, source: str) -> str:
    # An unknown key first: the misspelt twin of a "missing" one explains both.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    where = ".".join([place] * bool(place) + [str(part) for part in first["loc"]])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        hint = _near(str(first["loc"][-1]), list(cls.model_fields))
        return f"unknown key {where!r} in {source}; {hint}"
    if first["type"] == "missing":
        return f"{source} lacks {where!r}; add it"
    if first["type"] in ("value_error", "assertion_error"):
        return f"{where}: {message}" if where else message
    expected = message.removeprefix("Input ").split(", unable to")[0]
    return f"{where} is {first['input']!r} in {source}, but it {expected}"


def _from_file(reference: str, base: type[Settings], *, place: str) -> type[Settings]:
    """The class that `some_file.py:SomeClass` names."""
    file, _, name = reference.rpartition(":")
    if not Path(file).is_file():
        raise ValueError(f"{place}.kind is {reference!r}, but there is no file {file!r}")
    # Registered, under a name that no import statement can mean, because pydantic looks a class's
    # module up when its annotations are text (`from __future__ import annotations`).
    spec = spec_from_file_location(f"{Path(file).resolve()}", file)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = vars(module).get(name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{place}.kind is {reference!r}, but {file} has no {base.__name__} {name}")
    declared = found.model_fields["kind"].annotation
    if get_origin(declared) is Literal and reference not in get_args(declared):
        raise ValueError(
            f"class {name} in {file} declares a kind of its own, but from a file it is named by "
            f"the recipe ({reference}): leave the class's kind line out"
        )
    return found


def build_component(
    base: type[S], known: Mapping[str, type[Settings]], data: Any, *, place: str, source: str
) -> S:
    """The task, behaviour or objective that `data` describes: a mapping with `kind`, or the kind
    alone where nothing else needs saying.

    Raises ValueError with one sentence: no kind, an unknown one (with the nearest), or a mistake
    among its keys.
    """
    if isinstance(data, base):
        return data
    if isinstance(data, str):
        data = {"kind": data}
    if not isinstance(data, Mapping) or "kind" not in data:
        raise ValueError(
            f"{place} is {data!r} in {source}, but it needs a kind: one of {', '.join(known)}"
        )
    kind = str(data["kind"])
    if ".py:" in kind:
        cls = _from_file(kind, base, place=place)
    elif kind in known:
        cls = known[kind]
    else:
        raise ValueError(
            f"{place}.kind is {kind!r} in {source}, which is no {place}; {_near(kind, list(known))}"
        )
    built = build(cls, data, place=place, source=source)
    assert isinstance(built, base), f"{cls.__name__} stands in the union of another component"
    return built
