"""Imports only point down the layers, and tasks and settings stay free of torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tandem

ROOT = Path(tandem.__file__).parent
LAYERS = [
    {"__version__", "settings", "types", "core"},
    {"behaviours", "objectives", "tasks"},
    {"models", "rollout", "contract"},
    {"evaluation", "training"},
    {"studies"},
    {"front", "engines", "wiring", "run", "cli", "__main__", "__init__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# What a sibling may take: kinds of draw; the base of a law, as the type of an argument.
ALLOWED = {("core", "types"), ("objectives", "behaviours.base")}
FILES = sorted(ROOT.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Dotted names of every module that the file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file} has a relative import"
            one_of_ours = node.module == "tandem"
            names |= {f"tandem.{a.name}" for a in node.names} if one_of_ours else {node.module}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_only_point_down(file: Path) -> None:
    room = file.relative_to(ROOT).parts[0].removesuffix(".py")
    assert room in LEVEL, f"{room} has no layer: give it one in this test"
    for name in imported(file):
        target = name.removeprefix("tandem.")
        other = target.split(".")[0]
        if name == "tandem" or other == name.split(".")[0] or other == room:
            continue
        down = LEVEL[other] < LEVEL[room] or LEVEL[room] == len(LAYERS) - 1
        assert down or (room, target) in ALLOWED, f"{room} imports {name}, which is not below it"


@pytest.mark.parametrize(
    "file", [ROOT / "settings.py", *(ROOT / "tasks").glob("*.py")], ids=lambda f: f.name
)
def test_tasks_and_settings_name_no_torch_even_inside_functions(file: Path) -> None:
    with_torch = ("torch", "tandem.types", "tandem.core")
    assert not [name for name in imported(file) if name.startswith(with_torch)]


@pytest.mark.parametrize("module", ["tandem.settings", "tandem.tasks", "tandem.cli"])
def test_importing_it_does_not_import_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
