"""Where prompts come from and what counts as right; a new task is a file and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tandem.tasks.arithmetic import Arithmetic
from tandem.tasks.base import Grade, Prompt, Split, Task
from tandem.tasks.math import Math

AnyTask = Annotated[Arithmetic | Math, Field(discriminator="kind")]

__all__ = ["AnyTask", "Arithmetic", "Grade", "Math", "Prompt", "Split", "Task"]
