"""From plain mappings to settings objects, with every mistake told in one sentence.

A component (task, behaviour, objective) is chosen by its `kind`: a name of ours, or
`my_method.py:MyClass` for a class in a file of the user's. Components may hold components.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import module_from_spec, spec_from_file_location
from inspect import isabstract
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError, create_model

from tandem.behaviours import AnyBehaviour, Behaviour
from tandem.objectives import AnyObjective, Objective
from tandem.settings import Settings
from tandem.tasks import AnyTask, Task
from tandem.training.recipe_file import Source

S = TypeVar("S", bound=Settings)

UNIONS: dict[type[Settings], Any] = {
    Task: AnyTask,
    Behaviour: AnyBehaviour,
    Objective: AnyObjective,
}


def kinds(union: Any) -> dict[str, type[Settings]]:
    """The classes of a tagged union by the `kind` that names them in a recipe."""
    if get_origin(union) is Annotated:
        union = get_args(union)[0]
    members = get_args(union) if get_origin(union) in (Union, UnionType) else (union,)
    return {str(member.model_fields["kind"].default): member for member in members}


def build(cls: type[S], data: Any, *, place: str, source: Source | str) -> S:
    """`cls` from a mapping, its fields that are settings or components too.

    place: dotted name of the section ("" for the run itself). source: who said what, or what to
    call all of it, for messages. Raises ValueError with one sentence about the first mistake.
    """
    if isinstance(data, cls):
        return data
    source = _as_source(source)
    if not isinstance(data, Mapping):
        raise ValueError(
            f"{place} is {data!r} in {source.of(place)}, but it should be a group of keys such as "
            f"{', '.join(list(cls.model_fields)[:4])}"
        )
    built = dict(data)
    for name, value in data.items():
        if name in cls.model_fields:
            annotation = cls.model_fields[name].annotation
            built[name] = _inner(annotation, value, place=_within(place, name), source=source)
    try:
        return cls.model_validate(built)
    except ValidationError as error:
        raise ValueError(_sentence(error, cls, place=place, source=source)) from None


def build_component(
    base: type[S],
    known: Mapping[str, type[Settings]],
    data: Any,
    *,
    place: str,
    source: Source | str,
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
    source = _as_source(source)
    where = source.of(_within(place, "kind"))
    if not isinstance(data, Mapping) or "kind" not in data:
        raise ValueError(
            f"{place} is {data!r} in {where}, but it needs a kind: one of {', '.join(known)}"
        )
    kind = str(data["kind"])
    if ".py:" in kind:
        cls = _from_file(kind, base, place=place, source=source)
        data = {**data, "kind": cls.model_fields["kind"].default}
    elif kind in known:
        cls = known[kind]
    else:
        noun = base.__name__.lower() if base in UNIONS else place
        hint = _near(kind, list(known))
        raise ValueError(f"{place}.kind is {kind!r} in {where}, which is no {noun}; {hint}")
    built = build(cls, data, place=place, source=source)
    assert isinstance(built, base), f"{cls.__name__} stands in the union of another component"
    return built


def _inner(annotation: Any, value: Any, *, place: str, source: Source) -> Any:
    """A field's value with the settings within it built; anything else as it is, for pydantic."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        # X | None is X where there is something; other unions pydantic tells apart.
        members = [member for member in get_args(annotation) if member is not type(None)]
        if value is None or len(members) > 1:
            return value
        return _inner(members[0], value, place=place, source=source)
    inner = get_args(annotation)
    if get_origin(annotation) in (tuple, list) and isinstance(value, list | tuple):
        return [
            _inner(inner[0], v, place=_within(place, str(i)), source=source)
            for i, v in enumerate(value)
        ]
    if get_origin(annotation) is dict and isinstance(value, Mapping):
        return {
            k: _inner(inner[1], v, place=_within(place, k), source=source) for k, v in value.items()
        }
    if annotation in UNIONS:
        known = kinds(UNIONS[annotation])
        return build_component(annotation, known, value, place=place, source=source)
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return build(annotation, value, place=place, source=source)
    return value


def _as_source(source: Source | str) -> Source:
    return Source(source) if isinstance(source, str) else source


def _within(place: str, name: str) -> str:
    return f"{place}.{name}" if place else str(name)


def _hint(word: str, cls: type[Settings]) -> str:
    """What an unknown key may have meant: one that a section of `cls` has, or the nearest here."""
    fields = cls.model_fields.items()
    held = [f"{name}.{word}" for name, field in fields if word in _keys_of(field.annotation)]
    if held:
        return f"did you mean {' or '.join(map(repr, held))}?"
    return _near(word, list(cls.model_fields))


def _keys_of(annotation: Any) -> set[str]:
    """The keys of a section; of a component, those of all its kinds. Lists and groups by name have
    keys of their own in between."""
    if annotation in UNIONS:
        return {key for made in kinds(UNIONS[annotation]).values() for key in made.model_fields}
    if get_origin(annotation) in (Union, UnionType):
        return {key for part in get_args(annotation) for key in _keys_of(part)}
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return set(annotation.model_fields)
    return set()


def _near(word: str, known: list[str]) -> str:
    """The end of a sentence: the nearest known word, or all of them."""
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def _sentence(error: ValidationError, cls: type[Settings], *, place: str, source: Source) -> str:
    # An unknown key first: the misspelt twin of a "missing" one explains both.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    where = ".".join([place] * bool(place) + [str(part) for part in first["loc"]])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        hint = _hint(str(first["loc"][-1]), cls)
        return f"unknown key {where!r} in {source.of(where)}; {hint}"
    if first["type"] == "missing":
        return f"{source.of(where)} lacks {where!r}; add it"
    if first["type"] in ("value_error", "assertion_error"):
        if not where:
            return message
        message = message.removesuffix(".")
        # A message that begins with its field would name it twice.
        own = where.rpartition(".")[2]
        if message.startswith(f"{own} is "):
            return where + message.removeprefix(own)
        return f"{where}: {message}"
    expected = message.removeprefix("Input ").split(", unable to")[0]
    return f"{where} is {first['input']!r} in {source.of(where)}, but it {expected}"


def _from_file(
    reference: str, base: type[Settings], *, place: str, source: Source
) -> type[Settings]:
    """The class that `some_file.py:SomeClass` names, as one of that kind.

    The file lies in the current folder, or beside the recipe (or one that it extends); its path
    from here is what the class's kind says, so that what is written down is found again.
    """
    file, _, name = reference.rpartition(":")
    paths = [Path(file), *(folder / file for folder in source.folders)]
    found_at = next((path for path in paths if path.is_file()), None)
    if found_at is None:
        raise ValueError(
            f"{place}.kind is {reference!r}, but there is no file {file!r} in the current folder "
            "or beside the recipe"
        )
    # Registered, under a name that no import statement can mean, because pydantic looks a class's
    # module up when its annotations are text (`from __future__ import annotations`).
    spec = spec_from_file_location(f"{found_at.resolve()}", found_at)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = vars(module).get(name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{place}.kind is {reference!r}, but {file} has no {base.__name__} {name}")
    if isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise ValueError(f"class {name} in {file} is no whole {base.__name__}: write its {lacking}")
    # A kind that the class declares, or inherits from one of ours, would name another class.
    kind = f"{found_at}:{name}"
    its_kind: Any = (Literal[kind], kind)  # pyright: ignore[reportInvalidTypeForm]
    return create_model(
        name,
        __base__=found,
        __module__=found.__module__,
        __doc__=found.__doc__,
        kind=its_kind,
    )
