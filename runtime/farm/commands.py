"""Commands that make many shots: `farm` and `openjd`."""

from __future__ import annotations

import argparse
import json
from contextlib import redirect_stdout
from time import monotonic

from ...atomic import write_text
from ...console import Commands, Console, add_command
from ...errors import ShotsFailed
from ..shots.commands import add_jobs, add_output, add_resuming, checked_jobs
from ..shots.monitor import Monitor
from .farm import TRIES, Farm
from .gallery import write_gallery
from .openjd import template
from .report import FarmReport

GALLERY_S = 10.0  # between two writings of the page while the farm runs


def add_commands(commands: Commands) -> None:
    command = add_command(
        commands, farm, "make all shots of a job list, on all GPUs or CPUs of a Ray cluster"
    )
    add_jobs(command)
    add_output(command)
    add_resuming(command, forms=("auto", "json", "none"))
    command.add_argument(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster to join: auto, or host:port (default: start Ray on this machine)",
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="number of workers (default: one per GPU, or per 4 CPUs)"
    )
    command.add_argument(
        "--tries",
        type=int,
        default=TRIES,
        metavar="N",
        help="attempts without progress before a shot is given up (default: %(default)s)",
    )
    command = add_command(commands, openjd, "print a job list as an Open Job Description template")
    add_jobs(command)
    add_output(command)


def farm(options: argparse.Namespace, console: Console) -> None:
    monitor = Monitor(console, options.jobs.stem, options.progress)
    shots = checked_jobs(options)
    shown_s = monotonic()

    def show(report: FarmReport) -> None:
        nonlocal shown_s
        console.signals.check()
        show_report(report, monitor)
        if monotonic() - shown_s > GALLERY_S:
            write_gallery(options.output / "index.html", shots, report)
            shown_s = monotonic()

    made = Farm(
        shots,
        address=options.address,
        num_workers=options.workers,
        tries=options.tries,
        force=options.force,
        show=show,
    )
    report = made.report
    try:
        with redirect_stdout(None):  # Ray prints a paragraph there about every worker that dies
            made.run()
    finally:
        console.bar.close()
        write_gallery(options.output / "index.html", shots, report)
        write_text(options.output / "report.json", json.dumps(report.document(), indent=1) + "\n")
    if monitor.lines and monitor.lines.form == "json":
        monitor.lines.end(**report.document())
    else:
        print(report.table())
    if failed := [shot.name for shot in report.shots if shot.state == "failed"]:
        raise ShotsFailed(
            f"{len(failed)} of {len(shots)} shots failed: {', '.join(failed[:10])}"
            f"{', ...' if len(failed) > 10 else ''}; {options.output / 'report.json'} says why"
        )


def show_report(report: FarmReport, monitor: Monitor) -> None:
    """The farm's progress, on the bar or as a line for a program."""
    done, failed = report.states["done"], report.states["failed"]
    frames, retries, missing = report.num_frames, report.retries, report.missing
    detail = (
        f"{done}/{len(report.shots)} shots, {frames} frames, {retries} retries, {failed} set aside"
        f"{', waiting for ' + missing if missing else ''}"
    )
    if monitor.lines:
        counts = {"done": done, "failed": failed, "frames": frames, "retries": retries}
        monitor.lines.show(report.share, detail, shots=len(report.shots), missing=missing, **counts)
    else:
        monitor.console.bar.show("farm", int(1000 * report.share), 1000, detail)


def openjd(options: argparse.Namespace, _console: Console) -> None:
    print(template(options.jobs, options.output, checked_jobs(options)), end="")
