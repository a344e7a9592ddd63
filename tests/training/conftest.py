"""Fixtures of the training tests: a tiny pair on disk, and a recipe that uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_tiny import save_pair, tiny_recipe


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder)
    return folder


@pytest.fixture
def recipe(pair: Path) -> dict[str, Any]:
    return tiny_recipe(pair)
