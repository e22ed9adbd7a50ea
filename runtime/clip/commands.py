"""The command `inspect`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...console import Commands, Console, add_command
from ...engines.bundle import open_bundle
from ...engines.inspect import report
from .memory_plan import memory_report
from .options import ClipOptions, add_options

OPTIONS = ("steps", "solver", "cache_interval")  # those that decide the memory, besides windows and order


def add_commands(commands: Commands) -> None:
    command = add_command(commands, inspect, "describe a bundle and the memory that a clip needs")
    command.add_argument("bundle", type=Path, help="directory made by animate-rt build")
    command.add_argument(
        "--frames", type=int, default=240, metavar="N", help="number of frames (default: %(default)s)"
    )
    add_options(command, *OPTIONS)


def inspect(options: argparse.Namespace, _console: Console) -> None:
    bundle = open_bundle(options.bundle)
    chosen = ClipOptions(**{name: getattr(options, name) for name in OPTIONS})
    print(f"{report(bundle)}\n\n{memory_report(bundle, options.frames, chosen)}")
