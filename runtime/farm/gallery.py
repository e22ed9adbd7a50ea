"""The web page of a farm: every shot with its contact sheet, to check the results by eye."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from urllib.parse import quote

from ...text import one_line
from ..shots.shot import Shot
from .report import FarmReport, ShotReport, write_own

PAGE_BEGIN = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="generator" content="animate-rt farm">
"""
PAGE = """{begin}\
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em; background: #fff; color: #222 }}
section {{ margin: 0 0 2em }}
h2 {{ font-size: 1em; margin: 0 0 .3em }}
img {{ max-width: 100%; border: 1px solid #ddd }}
.failed {{ color: #b00 }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
{shots}
</html>
"""


def write_gallery(path: Path, shots: list[Shot], report: FarmReport) -> None:
    """Write the page. Failed shots come first, with their errors; finished ones link to their results.

    Raises OutputError if it cannot be written, or if `path` is a file that is not such a page.
    """
    pairs = sorted(zip(shots, report.shots, strict=True), key=lambda pair: pair[1].state != "failed")
    summary = ", ".join(f"{count} {state}" for state, count in report.states.items())
    sections = "\n".join(section(shot, shot_report, path.parent) for shot, shot_report in pairs)
    title = html(path.parent.resolve().name)
    write_own(
        path, PAGE_BEGIN, PAGE.format(begin=PAGE_BEGIN, title=title, summary=html(summary), shots=sections)
    )


def section(shot: Shot, report: ShotReport, folder: Path) -> str:
    name, parts = html(shot.name), []
    if report.state == "done":
        parts.append(f'<a href="{address(shot.output.path, "" if shot.output.is_file else "/")}">{name}</a>')
        if report.num_frames:
            parts.append(f"{report.num_frames} frames")
        if shot.overlay and (folder / shot.overlay.name).is_file():
            parts.append(f'<a href="{address(shot.overlay)}">overlay</a>')
    else:
        parts.append(f'{name} <span class="{report.state}">{report.state}: {html(report.error)}</span>')
    sheet = ""
    if shot.contact_sheet and (folder / shot.contact_sheet.name).is_file():
        sheet = f'<img loading="lazy" src="{address(shot.contact_sheet)}" alt="{name}">'
    return f"<section><h2>{', '.join(parts)}</h2>{sheet}</section>"


def html(text: str) -> str:
    """The text as HTML shows it, on one line and without control characters."""
    return escape(one_line(text))


def address(path: Path, end: str = "") -> str:
    """The link to a file in the page's folder, whose name may be any bytes."""
    return quote(os.fsencode(path.name)) + end
