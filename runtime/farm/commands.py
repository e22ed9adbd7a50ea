"""Commands for whole job lists: `farm` and `openjd`."""

from __future__ import annotations

import argparse
from contextlib import suppress
from time import monotonic

from ...console import Commands, Console, add_command
from ...errors import OutputError, ShotsFailed
from ...text import quoted
from ..marks.commands import marks_of
from ..shots.commands import add_jobs, add_output, add_resuming, checked_jobs
from ..shots.monitor import Monitor
from .cluster import check_installed
from .driver import run_in_driver
from .farm import TRIES, Farm
from .gallery import PAGE_BEGIN, write_gallery
from .openjd import template
from .report import REPORT_BEGIN, FarmReport, check_own, write_report

GALLERY_S = 10.0  # how often the web page is written while the farm runs


def add_commands(commands: Commands) -> None:
    command = add_command(
        commands, farm, "make all shots of a job list, on all GPUs or CPUs of a Ray cluster"
    )
    add_jobs(command)
    add_output(command)
    add_resuming(command, formats=("auto", "json", "none"))
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
        help="give up a shot after N attempts in a row without progress (default: %(default)s)",
    )
    command = add_command(commands, openjd, "print a job list as an Open Job Description template")
    add_jobs(command)
    add_output(command)


def farm(options: argparse.Namespace, console: Console) -> None:
    monitor = Monitor(console, options.jobs.stem, options.progress)
    page, document = options.output / "index.html", options.output / "report.json"
    check_installed()
    check_own(page, PAGE_BEGIN)
    check_own(document, REPORT_BEGIN)
    shots = checked_jobs(options, marks=marks_of(options))
    shown_s = monotonic()

    def show(report: FarmReport) -> None:
        nonlocal shown_s
        console.signals.check()
        show_report(report, monitor)
        if monotonic() - shown_s > GALLERY_S:
            with suppress(OutputError):  # no reason to stop; the end says it
                write_gallery(page, shots, report)
            shown_s = monotonic()

    job_farm = Farm(
        shots,
        address=options.address,
        num_workers=options.workers,
        tries=options.tries,
        force=options.force,
        show=show,
    )
    try:
        run_in_driver(job_farm)
    finally:
        report = job_farm.report
        console.bar.close()
        write_report(document, report)
        write_gallery(page, shots, report)
    if monitor.lines and monitor.lines.format == "json":
        monitor.lines.end(**report.document())
    else:
        print(report.table())
    if failed := [shot.name for shot in report.shots if shot.state == "failed"]:
        raise ShotsFailed(
            f"{len(failed)} of {len(shots)} shots failed: {', '.join(map(quoted, failed[:10]))}"
            f"{', ...' if len(failed) > 10 else ''}; see {quoted(str(document), 300)}"
        )


def show_report(report: FarmReport, monitor: Monitor) -> None:
    """Show the farm's progress, on the bar or as a status line."""
    done, failed = report.states["done"], report.states["failed"]
    frames, retries, waiting_for = report.num_frames, report.retries, report.waiting_for
    detail = (
        f"{done}/{len(report.shots)} shots, {frames} frames, {retries} retries, {failed} failed"
        f"{', waiting for ' + waiting_for if waiting_for else ''}"
    )
    if monitor.lines:
        counts = {"done": done, "failed": failed, "frames": frames, "retries": retries}
        monitor.lines.show(report.share, detail, shots=len(report.shots), missing=waiting_for, **counts)
    else:
        monitor.console.bar.show("farm", int(1000 * report.share), 1000, detail)


def openjd(options: argparse.Namespace, _console: Console) -> None:
    print(template(options.jobs, options.output, checked_jobs(options)), end="")
