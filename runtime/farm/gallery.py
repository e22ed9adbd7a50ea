"""A page of all shots of a farm, because people look rather than read."""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import quote

from ...atomic import write_text
from ..shots.shot import Shot
from .report import FarmReport, ShotReport

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
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
    """Shots that failed come first, with why; each other one with its contact sheet, linked to its result."""
    pairs = sorted(zip(shots, report.shots, strict=True), key=lambda pair: pair[1].state != "failed")
    summary = ", ".join(f"{count} {state}" for state, count in report.states.items())
    sections = "\n".join(section(shot, made, path.parent) for shot, made in pairs)
    page = PAGE.format(title=escape(path.parent.resolve().name), summary=escape(summary), shots=sections)
    write_text(path, page)


def section(shot: Shot, made: ShotReport, folder: Path) -> str:
    name, parts = escape(shot.name), []
    if made.state == "done":
        target = shot.output.path.name + ("" if shot.output.video else "/")
        parts.append(f'<a href="{quote(target)}">{name}</a>')
        if made.num_frames:
            parts.append(f"{made.num_frames} frames")
    else:
        parts.append(f'{name} <span class="{made.state}">{made.state}: {escape(made.error)}</span>')
    sheet = ""
    if shot.contact_sheet and (folder / shot.contact_sheet.name).is_file():
        sheet = f'<img loading="lazy" src="{quote(shot.contact_sheet.name)}" alt="{name}">'
    return f"<section><h2>{', '.join(parts)}</h2>{sheet}</section>"
