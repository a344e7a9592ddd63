"""Programs that nobody has read are run here, and harm nothing."""

from __future__ import annotations

from tandem.evaluation.sandbox.forms import Checks, Limits, Outcome, Program
from tandem.evaluation.sandbox.sandbox import Isolation, Sandbox, SandboxError, isolation

__all__ = [
    "Checks",
    "Isolation",
    "Limits",
    "Outcome",
    "Program",
    "Sandbox",
    "SandboxError",
    "isolation",
]
