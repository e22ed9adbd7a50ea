"""Results as one HTML file that loads nothing else, and as tables in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ...atomic import write_text
from ...errors import InputError
from .charts import charts_across, charts_of, svg
from .result import Result
from .tables import machine, tables_of

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 58em; margin: 2em auto; padding: 0 1em; color: #222 }
h2 { margin-top: 2.2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; font-variant-numeric: tabular-nums }
td, th { border-bottom: 1px solid #e4e4e4; padding: 3px 12px 3px 0; text-align: left }
svg { display: block; max-width: 100%; height: auto; margin: 1em 0 }
svg text { font-family: system-ui, sans-serif !important }
.note { color: #666; font-size: 13px } .warning { color: #a40 }
"""


def html(results: Sequence[tuple[str, Result]]) -> str:
    """An HTML page of named results. Needs matplotlib."""
    sections = [section(name, result) for name, result in results]
    sections += [svg(chart) for chart in charts_across([result for _, result in results])]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>animate-rt benchmarks</title>'
        f"<style>{STYLE}</style><h1>animate-rt benchmarks</h1>{''.join(sections)}</html>\n"
    )


def section(name: str, result: Result) -> str:
    warnings = "".join(f'<p class="warning">Warning: {escape(text)}</p>' for text in result.warnings)
    tables = "".join(f"<p>{escape(table.title)}</p>{table.html()}" for table in tables_of(result))
    charts = "".join(map(svg, charts_of(result)))
    note = f'<p class="note">{escape(machine(result))}</p>'
    return f"<h2>{escape(result.kind)}: {escape(name)}</h2>{warnings}{tables}{charts}{note}"


def write_html(path: Path, results: Sequence[tuple[str, Result]]) -> None:
    write_text(path, html(results))


def fill_tables(page: Path, results: Sequence[tuple[str, Result]]) -> None:
    """Replace what a page has between the marker lines of each result by that result's tables. Raises
    InputError, and leaves the page as it is, if it has no markers for one of them."""
    text = page.read_text(encoding="utf-8")
    for name, result in results:
        before, begin, rest = text.partition(f"<!-- table {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise InputError(
                f"{page}: expected a line <!-- table {name} --> and <!-- end --> below, found none"
            )
        text = f"{before}{begin}\n{markdown(result)}\n{end}{after}"
    write_text(page, text)


def markdown(result: Result) -> str:
    tables = "".join(f"{table.title}\n\n{table.markdown()}\n\n" for table in tables_of(result))
    warnings = "".join(f"*Warning: {warning}.*\n\n" for warning in result.warnings)
    return f"{tables}{warnings}*{machine(result)}.*"
