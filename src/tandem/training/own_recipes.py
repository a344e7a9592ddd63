"""Finding a recipe: a file of the user's, or one of ours by name."""

from __future__ import annotations

from difflib import get_close_matches
from os.path import isfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def own_recipes() -> dict[str, Path]:
    """The recipes that come with tandem, by name; those of papers as `papers/...`.

    In a wheel they lie inside the package; in a checkout, beside src/.
    """
    inside = _PACKAGE / "recipes"
    folder = inside if inside.is_dir() else _PACKAGE.parents[1] / "recipes"
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*.yaml"))
    }


def recipe_path(name: str) -> Path:
    """The file that `name` means: a path, or the name of a recipe that comes with tandem.

    `recipes/arithmetic.yaml` and `arithmetic.yaml` are found too where no such file exists, so
    that what the README says works without a clone.

    Raises ValueError when there is neither, with the nearest name.
    """
    found = find_recipe(name, Path())
    if found is None:
        raise ValueError(
            f"no recipe {name!r}: it is neither a file nor one of tandem's own; {nearest(name)}"
        )
    return found


def find_recipe(name: str, folder: Path) -> Path | None:
    """What `name` means in that folder; None where it means nothing."""
    # Not Path.is_file, which raises where a name is longer than names can be.
    if isfile(folder / name):
        return folder / name
    return own_recipes().get(_bare(name))


def nearest(name: str) -> str:
    """The own recipe that could have been meant, or the names of all."""
    own, bare = own_recipes(), _bare(name)
    near = get_close_matches(bare, own, n=1) or get_close_matches(Path(bare).name, own, n=1)
    return f"did you mean {near[0]!r}?" if near else f"ours are {', '.join(own)}"


def _bare(name: str) -> str:
    return name.removeprefix("recipes/").removesuffix(".yaml")
