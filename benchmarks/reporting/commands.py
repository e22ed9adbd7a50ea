"""The commands `bench compare` and `bench report`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ...console import Commands, Console, add_command, need_packages
from ...errors import Regressed
from ..arguments import positive


def add_commands(kinds: Commands) -> None:
    command = add_command(kinds, compare, "compare two results; exit status 1 if the second is slower")
    command.add_argument("before", type=Path, metavar="A.json")
    command.add_argument("after", type=Path, metavar="B.json")
    command.add_argument(
        "--threshold",
        type=positive,
        default=0.05,
        metavar="FRACTION",
        help="a median that grew by more, and not by chance, is a regression (default: %(default)s)",
    )

    command = add_command(
        kinds, report, "print results as tables; write them as HTML, as plots or into a page"
    )
    command.add_argument("results", type=Path, nargs="+", metavar="RESULT.json")
    command.add_argument("--html", type=Path, metavar="OUT.html")
    command.add_argument("--plots", type=Path, metavar="DIR", help="PNG files; needs matplotlib")
    command.add_argument(
        "--page",
        type=Path,
        metavar="PAGE.md",
        help="replace what is between <!-- table RESULT --> and <!-- end --> by the tables of RESULT.json",
    )


def compare(options: argparse.Namespace, _console: Console) -> None:
    from .compare import compare as changes_between
    from .result import read_result
    from .tables import changes_table

    before, after = read_result(options.before), read_result(options.after)
    changes = changes_between(before, after, options.threshold)
    regressed = [change.name for change in changes if change.regressed]
    print(changes_table(changes).text(), file=sys.stderr)
    for name in ("cpu", "cores", "gpu"):
        if before.host[name] != after.host[name]:
            print(f"warning: {name} differs: {before.host[name]} and {after.host[name]}", file=sys.stderr)
    as_json = [change.as_json() for change in changes]
    print(json.dumps({"regressed": regressed, "threshold": options.threshold, "changes": as_json}))
    if regressed:
        raise Regressed(
            f"expected no median to grow by more than {100 * options.threshold:g} %, found "
            f"{', '.join(regressed)}: see what changed between {options.before} and {options.after}"
        )


def report(options: argparse.Namespace, _console: Console) -> None:
    from .charts import write_pngs
    from .report import fill_tables, write_html
    from .result import read_result
    from .tables import text_of

    results = [(path.stem, read_result(path)) for path in options.results]
    for name, result in results:
        print(f"{name}\n\n{text_of(result)}\n")
    if options.html or options.plots:
        need_packages("bench", "matplotlib")
    if options.html:
        write_html(options.html, results)
    if options.plots:
        write_pngs(options.plots, results)
    if options.page:
        fill_tables(options.page, results)
