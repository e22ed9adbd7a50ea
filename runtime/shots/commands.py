"""Commands that make one shot: `animate` and `shot`, and what `farm` shares with them."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

from ...console import Commands, Console, add_command, complain
from ...errors import ConfigError, InputError, OutputError
from ..animator import Animator
from ..clip.options import add_options, options_of
from .job_list import frame_rate, read_jobs
from .monitor import Monitor
from .output import Output
from .shot import Shot, check_inputs, is_done, make
from .status import FORMS


def add_commands(commands: Commands) -> None:
    add_animate(commands)
    command = add_command(commands, shot, "make one shot of a job list: the task of a farm manager")
    add_jobs(command)
    command.add_argument("name", help="name of the shot")
    add_output(command)
    add_resuming(command)


def add_animate(commands: Commands) -> None:
    command = add_command(commands, animate, "make a video of a reference image and pose frames")
    command.add_argument("bundle", type=Path, help="directory made by animate-rt build")
    command.add_argument(
        "--reference", type=Path, required=True, metavar="IMAGE", help="picture of the character"
    )
    command.add_argument(
        "--pose",
        type=Path,
        required=True,
        metavar="VIDEO|DIR",
        help="pose skeletons: mp4, mov, webm, gif, or a directory of images",
    )
    command.add_argument(
        "--output",
        required=True,
        metavar="OUT.mp4|OUT_DIR[/NAME.####.png]",
        help="video, which is replaced if it exists, or a directory for PNG frames, which may hold an "
        "earlier result and nothing else; a sidecar beside it records what it was made from",
    )
    add_options(command)
    command.add_argument(
        "--frames",
        metavar="N|A-B",
        help="use the first N pose frames, or those from A to B, counted from 1, as a clip of their own "
        "(default: all)",
    )
    command.add_argument(
        "--first-number",
        type=int,
        default=0,
        metavar="N",
        help="number of the first PNG (default: %(default)s)",
    )
    command.add_argument(
        "--bits", type=int, choices=(8, 16), default=8, help="bits per channel of PNGs (default: %(default)s)"
    )
    command.add_argument("--fps", type=rate, metavar="R", help="frame rate (default: the pose's, or 24)")
    command.add_argument(
        "--initial-noise",
        type=Path,
        metavar="FILE.npy",
        help="noise (1, 4, frames, height/8, width/8) to use instead of the seed's",
    )
    command.add_argument(
        "--contact-sheet",
        type=Path,
        metavar="FILE.png",
        help="also write reference, poses and frames on one picture",
    )
    command.add_argument("--name", help="name of the shot in progress and errors (default: the output's)")
    add_resuming(command)


def add_jobs(command: argparse.ArgumentParser) -> None:
    command.add_argument("jobs", type=Path, help="list of shots, one JSON object per line (docs/farm.md)")


def add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", type=Path, default=Path("."), metavar="DIR", help="folder for the results (default: .)"
    )


def add_resuming(command: argparse.ArgumentParser, forms: tuple[str, ...] = FORMS) -> None:
    """Options of every command that makes shots."""
    again = command.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        dest="force",
        action="store_false",
        default=False,
        help="skip finished shots, resume unfinished ones (default)",
    )
    again.add_argument("--force", action="store_true", help="make everything again, finished or not")
    command.add_argument(
        "--progress",
        choices=forms,
        default="auto",
        help="progress for the calling program, on standard output (default: auto, which is openjd in a "
        "session of Open Job Description, and otherwise a bar for people, on standard error)",
    )


def rate(text: str) -> Fraction:
    """Frames per second: 25, 29.97 or 30000/1001."""
    try:
        return frame_rate(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def animate(options: argparse.Namespace, console: Console) -> None:
    name = options.name or Path(options.output).stem
    monitor = Monitor(console, name, options.progress)
    one = Shot(
        name=name,
        bundle=options.bundle,
        reference=options.reference,
        pose=options.pose,
        output=Output.at(options.output, options.first_number, options.bits),
        options=options_of(vars(options)),
        frames=options.frames,
        fps=options.fps,
        initial_noise=options.initial_noise,
        contact_sheet=options.contact_sheet,
    )
    make_one(one, monitor, options.force)


def shot(options: argparse.Namespace, console: Console) -> None:
    monitor = Monitor(console, options.name, options.progress)
    (one,) = checked_jobs(options, options.name)
    make_one(one, monitor, options.force)


def make_one(one: Shot, monitor: Monitor, force: bool) -> None:
    """Make a shot in this process, unless it is done."""
    digest = one.digest()
    if not force and is_done(one, digest):
        monitor.made(one, frames=0, kept=0, already=True)
        return
    check_inputs(one)  # before loading, which takes long
    with Animator.load(one.bundle) as animator:
        monitor.begin(
            bundle=animator.bundle.digest[:12],
            request=digest[:12],
            backend=animator.bundle.manifest.backend_version,
            device=animator.session.device.description,
        )
        made = make(one, animator, digest, force=force, progress=monitor.making(one, animator))
    monitor.made(one, frames=made.num_frames, kept=made.num_kept, already=False)


def checked_jobs(options: argparse.Namespace, only: str | None = None) -> list[Shot]:
    """All shots of the list, or the one of a name. Every bad line is reported before InputError is raised.
    Creates the results' folder."""
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {options.output}: {error.strerror}") from error
    shots, errors = read_jobs(options.jobs, options.output, only)
    for line in errors:
        complain(line)
    if errors:
        raise InputError(
            f"{options.jobs}: expected only good lines, found {len(errors)} bad; nothing was started"
        )
    return shots
