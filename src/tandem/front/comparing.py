"""`tandem compare`: tables of runs and studies, printed and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tandem.studies.compare import tables_of, write_tables
from tandem.studies.tables import as_text

TITLE = "Comparison"


def compare(
    runs: Sequence[Path],
    *,
    baseline: str | None,
    output: Path | None,
    console: Console | None = None,
) -> None:
    """Print the tables of run and study folders; write them to `output` where one is named.

    Raises ValueError, in one sentence, where there is nothing to compare.
    """
    console = console or Console()
    tables = tables_of(runs, baseline=baseline)
    for table in tables:
        for line in as_text(table):
            console.print(Text(line), soft_wrap=True)
        console.print()
    if output is not None:
        paths = write_tables(tables, output, title=TITLE)
        console.print(Text(", ".join(map(str, paths))), soft_wrap=True)
