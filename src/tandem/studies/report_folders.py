"""`tandem report DIR…`: one page about run folders, study folders and analyses, in any mix."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from tandem.studies.page import page
from tandem.studies.report import read_run, run_page
from tandem.studies.report_analyses import analyses, has_analyses
from tandem.studies.report_browser import with_script
from tandem.studies.report_runs import runs_part
from tandem.studies.report_study import study_part
from tandem.studies.study_folder import is_study, write_whole

REPORT = "report.html"


def write_reports(paths: Sequence[Path], *, output: Path | None = None) -> Path:
    """Write one page about all these folders, and return where it lies.

    paths: of runs, of studies, or of what `tandem probe` and `tandem diagnose` wrote elsewhere.
    output: the page's file; for a single folder report.html in it by default.
    Raises ValueError where a folder is none of these, or where several have no place for a page.
    """
    if output is None:
        if len(paths) != 1:
            raise ValueError(
                f"{len(paths)} folders have no common place for a report: name its file, as "
                "--output comparison.html"
            )
        output = paths[0] / REPORT
    if output.is_dir():
        raise ValueError(f"{output} is a folder: name a file for the report, as {output / REPORT}")
    text = reports_page(list(dict.fromkeys(paths)), target=output.parent)
    write_whole(output, text)
    return output


def reports_page(paths: Sequence[Path], *, target: Path) -> str:
    """The page as HTML text, a pure function of the folders. target: the folder it will lie in."""
    studies = [path for path in paths if is_study(path)]
    loose = [path for path in paths if _is_loose(path)]
    runs = [path for path in paths if path not in studies and path not in loose]
    if runs and len(paths) == 1:
        return run_page(read_run(runs[0]))
    parts = [study_part(path, target=target) for path in studies]
    if runs:
        parts.append(runs_part(runs, target=target))
    parts += [_analyses_part(path) for path in loose]
    title = " and ".join(title for title, _ in parts) if len(parts) < 4 else f"{len(parts)} reports"
    bodies = [
        f'<section class="part" id="part-{number}">{body}</section>'
        for number, (_, body) in enumerate(parts, start=1)
    ]
    return page(title=title, body=with_script("\n".join([*_contents(parts), *bodies])))


def _contents(parts: Sequence[tuple[str, str]]) -> list[str]:
    if len(parts) == 1:
        return []
    items = "".join(
        f'<li><a href="#part-{number}">{escape(title)}</a></li>'
        for number, (title, _) in enumerate(parts, start=1)
    )
    return [f"<nav><ul>{items}</ul></nav>"]


def _is_loose(path: Path) -> bool:
    """Whether this is neither a study nor a run, but the place of some analysis."""
    return not is_study(path) and not (path / "config.yaml").is_file() and has_analyses(path)


def _analyses_part(path: Path) -> tuple[str, str]:
    name = path.resolve().name
    body = analyses([path], name=lambda folder: folder.resolve().name)
    return name, f"<header><h1>{escape(name)}</h1></header>{body}"
