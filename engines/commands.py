"""Commands on engines: `verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..console import Commands, Console, add_command
from .bundle import open_bundle


def add_commands(commands: Commands) -> None:
    command = add_command(commands, verify, "compare the engines of a bundle with ONNX Runtime")
    command.add_argument("bundle", type=Path, help="directory made by animate-rt build")


def verify(options: argparse.Namespace, console: Console) -> None:
    from .verify import check, table
    from .verify import verify as compare

    bundle = open_bundle(options.bundle)
    comparisons = compare(bundle, lambda graph: console.step(f"verify {graph}"))
    console.bar.close()
    print(table(comparisons))
    check(bundle, comparisons)
