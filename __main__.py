"""The command line: parses, and calls the command. Every area adds its own commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata

from . import demo
from .benchmarks import commands as benchmarks
from .console import Parser, open_output, run_command
from .engines import commands as engines
from .export import commands as export
from .runtime.clip import commands as clip
from .runtime.farm import commands as farm
from .runtime.marks import commands as marks
from .runtime.poses import commands as poses
from .runtime.service.http import commands as service
from .runtime.shots import commands as shots


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (errors.py lists them)."""
    open_output()
    return run_command(parser().parse_args(arguments))


def parser() -> argparse.ArgumentParser:
    root = Parser(
        prog="animate-rt",
        description="Animate Anyone: a reference image and a sequence of poses in, a video out. "
        "Make a bundle of engines once per checkpoint and size with `build`, then use it with `animate`.",
    )
    root.add_argument("--version", action="version", version=f"animate-rt {metadata.version('animate-rt')}")
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    for area in (export, shots, poses, marks, clip, engines, demo, farm, service, benchmarks):
        area.add_commands(commands)
    return root


if __name__ == "__main__":
    sys.exit(main())
