"""Shared fixtures. One thread: small models run slower on two, and results stay comparable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data sets, tokenizers and models (see docs); skips where it is absent."""
    folder = os.environ.get("TANDEM_TEST_DATA")
    if folder and Path(folder).is_dir():
        return Path(folder)
    if os.environ.get("TANDEM_REQUIRE_DATA") == "1":
        pytest.fail("TANDEM_REQUIRE_DATA=1 but TANDEM_TEST_DATA names no folder")
    pytest.skip("TANDEM_TEST_DATA is not set")
