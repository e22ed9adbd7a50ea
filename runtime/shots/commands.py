"""Commands that make one shot, `animate` and `shot`; also the options and checks that `farm` shares."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from ...console import Commands, Console, add_command, complain
from ...engines.bundle import read_bundle
from ...errors import ConfigError, InputError, OutputError
from ...text import quoted
from ..animator import Animator
from ..clip.options import add_options, options_of
from ..clip.tracks import check_tracks
from ..marks.commands import add_marks, marks_of
from ..marks.marks import MarkOptions
from ..media.writer import place
from ..poses.commands import add_driving, driving_of, driving_options, rate
from .checks import check
from .job_list import read_jobs
from .making import make
from .monitor import Monitor
from .output import Output
from .pose_files import tracks_in
from .shot import Shot, clear_leftovers, is_done
from .status import FORMATS


def add_commands(commands: Commands) -> None:
    add_animate(commands)
    command = add_command(commands, shot, "make one shot of a job list, as the task of a farm manager")
    add_jobs(command)
    command.add_argument("name", help="name of the shot")
    add_output(command)
    add_resuming(command)


def add_animate(commands: Commands) -> None:
    command = add_command(commands, animate, "make a video from a reference image and pose frames")
    command.add_argument("bundle", type=Path, help="directory made by animate-rt build")
    command.add_argument(
        "--reference", type=Path, required=True, metavar="IMAGE", help="picture of the character"
    )
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--pose",
        type=Path,
        metavar="VIDEO|DIR|IMAGE",
        help="pose skeletons: an mp4, mov, webm or gif, a directory of images, or one image for one picture",
    )
    source.add_argument(
        "--driving",
        type=Path,
        metavar="VIDEO|KEYPOINTS|IMAGE",
        help="a video of a person, a keypoint file or a folder of them, or one image for one picture: "
        "skeletons are drawn from it",
    )
    source.add_argument(
        "--guidance",
        type=track,
        action="append",
        metavar="NAME=VIDEO|DIR|IMAGE",
        help="one track of a model that is driven by several, such as Champ: depth, normal, semantic_map, "
        "mask (the part of the semantic map that counts) or dwpose; give this option once for each",
    )
    command.add_argument(
        "--output",
        required=True,
        metavar="OUT.mp4|OUT_DIR[/NAME.####.png]|OUT.png",
        help="video, directory for PNG frames, or picture of one pose; an existing file is replaced, and so "
        "is a directory that is empty or holds only an earlier result; a sidecar beside it identifies the "
        "inputs",
    )
    add_options(command)
    command.add_argument(
        "--frames",
        metavar="N|A-B",
        help="make a clip of the first N pose frames, or of frames A to B, counted from 1 (default: all)",
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
    command.add_argument(
        "--fps", type=rate, metavar="R", help="frame rate (default: that of the poses, or 24)"
    )
    command.add_argument(
        "--pose-fps",
        type=rate,
        metavar="R",
        help="resample the poses in time to this rate before they are used; it is then also the rate of the "
        "output, unless --fps is given; a directory is taken to have 24 (default: all frames at their rate)",
    )
    command.add_argument(
        "--initial-noise",
        type=Path,
        metavar="FILE.npy",
        help="initial noise (1, 4, frames, height/8, width/8), instead of noise from the seed",
    )
    command.add_argument(
        "--contact-sheet",
        type=Path,
        metavar="FILE.png",
        help="also write one picture with the reference, some driving frames, their poses and frames",
    )
    command.add_argument(
        "--overlay",
        type=Path,
        metavar="FILE.mp4",
        help="also write a video with driving frame, skeleton and result side by side; of drawn poses, with "
        "pose and result",
    )
    add_driving(command.add_argument_group("with --driving"))
    command.add_argument(
        "--name",
        help="name of the shot in progress and error lines (default: the output's, without its suffix)",
    )
    add_resuming(command)


def track(text: str) -> tuple[str, Path]:
    """The name and the path in NAME=PATH."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(
            f"expected NAME=PATH, as in depth=frames/depth, found {quoted(text)}"
        )
    return name, Path(path)


def tracks_of(given: list[tuple[str, Path]]) -> dict[str, Path]:
    """Tracks by name. Raises ConfigError if one is given twice."""
    tracks = dict(given)
    if len(tracks) < len(given):
        raise ConfigError(f"--guidance: expected each track once, found {', '.join(n for n, _ in given)}")
    return tracks


def add_jobs(command: argparse.ArgumentParser) -> None:
    command.add_argument("jobs", type=Path, help="list of shots, one JSON object per line (docs/farm.md)")


def add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", type=Path, default=Path("."), metavar="DIR", help="folder for the results (default: .)"
    )


def add_resuming(command: argparse.ArgumentParser, formats: tuple[str, ...] = FORMATS) -> None:
    """Add the options of every command that makes shots."""
    group = command.add_mutually_exclusive_group()
    group.add_argument(
        "--resume",
        dest="force",
        action="store_false",
        default=False,
        help="skip finished shots and resume unfinished ones (default)",
    )
    group.add_argument("--force", action="store_true", help="make every shot from the start, finished or not")
    command.add_argument(
        "--progress",
        choices=formats,
        default="auto",
        help="format of progress lines on standard output (default: auto, which is openjd in a session of "
        "Open Job Description, and otherwise a progress bar on standard error)",
    )
    add_marks(command)


def animate(options: argparse.Namespace, console: Console) -> None:
    name = options.name or Path(options.output).stem
    monitor = Monitor(console, name, options.progress)
    driving = None
    if options.driving is not None:
        driving = driving_of(options, has_reference=True)
    elif given := driving_options(options):
        raise ConfigError(f"{', '.join(given)}: expected --driving, found poses that are drawn already")
    one = Shot(
        name=name,
        bundle=options.bundle,
        reference=options.reference,
        pose=tracks_of(options.guidance) if options.guidance else options.driving or options.pose,
        output=Output.at(options.output, options.first_number, options.bits),
        options=options_of(vars(options)),
        frames=options.frames,
        fps=options.fps,
        pose_fps=options.pose_fps,
        initial_noise=options.initial_noise,
        contact_sheet=options.contact_sheet and place(os.fspath(options.contact_sheet)),
        overlay=options.overlay and place(os.fspath(options.overlay)),
        driving=driving,
        start=options.start,
        duration=options.duration,
        audio=options.audio,
        marks=marks_of(options),
    )
    make_one(one, monitor, options.force)


def shot(options: argparse.Namespace, console: Console) -> None:
    monitor = Monitor(console, options.name, options.progress)
    (one,) = checked_jobs(options, options.name, marks_of(options))
    make_one(one, monitor, options.force)


def make_one(one: Shot, monitor: Monitor, force: bool) -> None:
    """Make a shot in this process, unless it is already done."""
    bundle = read_bundle(one.bundle)
    check_tracks(bundle.manifest.model, tracks_in(one.pose))
    digest = one.digest()
    if not force and is_done(one, digest):
        clear_leftovers(one, digest)
        monitor.end(one, frames=0, kept=0, already=True)
        return
    check(one, bundle)  # before it is loaded, which is slow
    with Animator.load(one.bundle) as animator:
        monitor.begin(
            bundle=animator.bundle.digest[:12],
            request=one.digest(animator.bundle)[:12],
            backend=animator.bundle.manifest.backend_version,
            device=animator.session.device.description,
        )
        progress = monitor.progress_callback(one, animator)
        result = make(one, animator, force=force, progress=progress)
    monitor.end(one, frames=result.num_frames, kept=result.num_kept, already=False)


def checked_jobs(
    options: argparse.Namespace, only: str | None = None, marks: MarkOptions | None = None
) -> list[Shot]:
    """Return the shots of the list, or only the one named `only`, with these marks; makes
    the output folder.

    If any line is invalid, prints a message for each such line and raises InputError.
    """
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {options.output}: {error.strerror}") from error
    shots, errors = read_jobs(options.jobs, options.output, only)
    for line in errors:
        complain(line)
    if errors:
        raise InputError(
            f"{options.jobs}: expected only valid lines, found {len(errors)} invalid; nothing was started"
        )
    return shots if marks is None else [replace(shot, marks=marks) for shot in shots]
