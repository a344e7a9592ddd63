"""What the solver's tests share."""

from __future__ import annotations

import pytest

from tandem.core import blend


@pytest.fixture(params=["few ids in numpy", "many ids in torch"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small vocabularies have a solver of their own; all that is promised holds for both."""
    if request.param == "many ids in torch":
        monkeypatch.setattr(blend, "FEW", 0)
