"""The command line of render farms: `shot`, `farm` and `openjd`, and what `animate` shares with them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from time import monotonic

from ...atomic import write_text
from ...errors import InputError, OutputError, ShotsFailed
from ..animator import Animator
from ..shots.job_list import read_jobs
from ..shots.monitor import Monitor
from ..shots.shot import Shot, check_inputs, is_done, make
from ..shots.status import FORMS
from .farm import TRIES, Farm
from .gallery import write_gallery
from .openjd import template
from .report import FarmReport

GALLERY_S = 10.0  # between pages while the farm runs


def add_farm(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands of render farms to the command line."""
    command = add_command(commands, shot, "make one shot of a job list: what a farm manager's task runs")
    add_jobs(command)
    command.add_argument("name", help="of the shot")
    add_output(command)
    add_again(command)

    command = add_command(
        commands, farm, "make all shots of a job list, on all GPUs or CPUs of a Ray cluster"
    )
    add_jobs(command)
    add_output(command)
    add_again(command, forms=("auto", "json", "none"))
    command.add_argument(
        "--address",
        metavar="ADDRESS",
        help="of a Ray cluster to join: auto, or host:port (default: a Ray of its own on this machine)",
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="at once (default: one per GPU, or per 4 CPUs)"
    )
    command.add_argument(
        "--tries",
        type=int,
        default=TRIES,
        metavar="N",
        help="before a shot that comes no further is set aside (default: %(default)s)",
    )

    command = add_command(commands, openjd, "print a template of Open Job Description for a job list")
    add_jobs(command)
    add_output(command)


def add_jobs(command: argparse.ArgumentParser) -> None:
    command.add_argument("jobs", type=Path, help="list of shots, one JSON object per line (docs/farm.md)")


def add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", type=Path, default=Path("."), metavar="DIR", help="folder of the results (default: .)"
    )


def add_again(command: argparse.ArgumentParser, forms: tuple[str, ...] = FORMS) -> None:
    """Options of whatever makes shots."""
    again = command.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        dest="force",
        action="store_false",
        default=False,
        help="leave what is done, go on with what is not (default)",
    )
    again.add_argument("--force", action="store_true", help="make it anew, even what is done")
    command.add_argument(
        "--progress",
        choices=forms,
        default="auto",
        help="lines for the program that started this, on standard output (default: auto, which is openjd "
        "within a session of Open Job Description and otherwise for people, on standard error)",
    )


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    run: Callable[[argparse.Namespace, Monitor], None],
    purpose: str,
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(run.__name__, help=purpose, description=purpose)
    command.set_defaults(run=run)
    return command


def shot(options: argparse.Namespace, monitor: Monitor) -> None:
    monitor.follow(options.name, options.progress)
    (one,) = checked_jobs(options, options.name)
    make_one(one, monitor, options.force)


def make_one(one: Shot, monitor: Monitor, force: bool) -> None:
    """Make a shot here, unless it is done."""
    digest = one.digest()
    if not force and is_done(one, digest):
        monitor.made(one, frames=0, kept=0, already=True)
        return
    check_inputs(one)  # loading takes long
    with Animator.load(one.bundle) as animator:
        monitor.begin(
            bundle=animator.bundle.digest[:12],
            request=digest[:12],
            backend=animator.bundle.manifest.backend_version,
            device=animator.device.description,
        )
        made = make(one, animator, digest, force=force, progress=monitor.making(one, animator))
    monitor.made(one, frames=made.num_frames, kept=made.num_kept, already=False)


def farm(options: argparse.Namespace, monitor: Monitor) -> None:
    monitor.follow(options.jobs.stem, options.progress)
    shots = checked_jobs(options)
    shown_s = monotonic()

    def show(report: FarmReport) -> None:
        nonlocal shown_s
        monitor.farming(report)
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
        with redirect_stdout(None):  # where Ray writes a paragraph of every worker that dies
            made.run()
    finally:
        monitor.bar.close()
        write_gallery(options.output / "index.html", shots, report)
        write_text(options.output / "report.json", json.dumps(report.document(), indent=1) + "\n")
    if monitor.lines and monitor.lines.form == "json":
        monitor.lines.end(**report.document())
    else:
        print(report.table())
    if failed := [shot.name for shot in report.shots if shot.state == "failed"]:
        raise ShotsFailed(
            f"{len(failed)} of {len(shots)} shots were set aside: {', '.join(failed[:10])}"
            f"{', ...' if len(failed) > 10 else ''}; {options.output / 'report.json'} says why"
        )


def openjd(options: argparse.Namespace, _monitor: Monitor) -> None:
    print(template(options.jobs, options.output, checked_jobs(options)), end="")


def checked_jobs(options: argparse.Namespace, only: str | None = None) -> list[Shot]:
    """All shots of the list, or the one of a name, or every reason why not. Makes the results' folder."""
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {options.output}: {error.strerror}") from error
    shots, errors = read_jobs(options.jobs, options.output, only)
    for line in errors:
        print(f"animate-rt: {' '.join(line.split())}", file=sys.stderr)
    if errors:
        raise InputError(
            f"{options.jobs}: expected good lines only, found {len(errors)} bad; nothing was started"
        )
    return shots
