"""The demo: a bundle from the weights that ship with the package, a clip of shipped inputs, and its contact
sheet."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import numpy as np

from .console import Commands, Console, add_command
from .export.commands import need_export
from .runtime.animator import Animator
from .runtime.clip.options import ClipOptions
from .runtime.media.contact_sheet import contact_sheet
from .runtime.media.picture import read_picture, write_png
from .runtime.media.pose_sequence import open_pose
from .runtime.media.writer import open_writer
from .runtime.shots.monitor import clip_bar

WEIGHTS = Path(__file__).parent / "weights"
CHECKPOINT, INPUTS = WEIGHTS / "puppets", WEIGHTS / "demo"
WINDOW = 16  # frames that the shipped weights were trained with
FRAME_RATE = Fraction(12)
ABOUT = "made by a small model of drawn puppets; its quality is measured in weights/puppets/README.md"


def add_commands(commands: Commands) -> None:
    command = add_command(commands, demo, "build a small bundle and animate a picture that comes along")
    command.add_argument(
        "--output",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="folder to fill (default: %(default)s)",
    )


def demo(options: argparse.Namespace, console: Console) -> None:
    """Write `bundle/`, `demo.mp4` and `contact-sheet.png` into the folder."""
    need_export()
    from .export import build_bundle

    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    bundle, video, sheet = folder / "bundle", folder / "demo.mp4", folder / "contact-sheet.png"
    reference = read_picture(INPUTS / "reference.png")
    poses = list(open_pose(INPUTS / "pose", None))
    width, height = reference.size
    build_bundle(CHECKPOINT, bundle, width=width, height=height, window=WINDOW, progress=console.step)
    frames = []
    with Animator.load(bundle) as animator, open_writer(video, width, height, FRAME_RATE) as writer:
        steps = len(ClipOptions().resolve(animator.bundle.manifest).steps)
        for frame in animator.animate(reference, poses, progress=clip_bar(console, steps)):
            writer.write(frame)
            frames.append(frame)
    write_png(sheet, contact_sheet(np.array(reference), list(map(np.array, poses)), frames))
    console.bar.close()
    print(f"video: {video}\ncontact sheet: {sheet}\n{ABOUT}")
