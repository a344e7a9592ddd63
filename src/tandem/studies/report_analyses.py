"""What `tandem probe` and `tandem diagnose` left in folders, as sections of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from tandem.studies.report_browser import browser, diagnosed_items
from tandem.studies.report_diagnostics import DIAGNOSE, diagnostics_section, read_diagnosed
from tandem.studies.report_probe import PROBE, probe_section, read_probe


def has_analyses(folder: Path) -> bool:
    """Whether either command left something right in this folder."""
    return (folder / PROBE).is_file() or (folder / DIAGNOSE).is_file()


def analyses(folders: Sequence[Path], *, name: Callable[[Path], str]) -> str:
    """Probe, diagnostics and samples side by side, of all files in and below `folders`.

    name: what a file's folder is called. Empty where there are none; raises ValueError for a file
    of another version.
    """
    probes = [(name(p.parent), read_probe(p)) for p in _found(folders, PROBE)]
    diagnosed = [read_diagnosed(p, name(p.parent)) for p in _found(folders, DIAGNOSE)]
    body = ""
    if probes:
        body += "<h2>Step-0 probe</h2>"
        for label, probe in probes:
            heading = f"<section><h3>{escape(label)}</h3></section>" if len(probes) > 1 else ""
            body += heading + probe_section(probe)
    if diagnosed:
        body += f"<h2>Diagnostics</h2>{diagnostics_section(diagnosed)}"
    items = [item for one in diagnosed for item in diagnosed_items(one)]
    if items:
        body += f"<h2>Samples side by side</h2>{browser(items)}"
    return body


def _found(folders: Sequence[Path], file: str) -> list[Path]:
    """Every file of that name, once, in an order that does not depend on the disk."""
    return list(dict.fromkeys(p for folder in folders for p in sorted(folder.rglob(file))))
