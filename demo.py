"""The demo: a bundle from the weights that ship with the package, a clip of shipped inputs, and its contact
sheet."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

from .console import Commands, Console, add_command
from .export.commands import need_export
from .runtime.animator import Animator
from .runtime.media.picture import read_picture
from .runtime.shots.making import make
from .runtime.shots.monitor import clip_bar
from .runtime.shots.output import Output
from .runtime.shots.shot import Shot

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
    """Write `bundle/`, `demo.mp4` with its sidecar, and `contact-sheet.png` into the folder."""
    need_export()
    from .export import build_bundle

    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    bundle, video, sheet = folder / "bundle", folder / "demo.mp4", folder / "contact-sheet.png"
    reference = INPUTS / "reference.png"
    width, height = read_picture(reference).size
    build_bundle(CHECKPOINT, bundle, width=width, height=height, window=WINDOW, progress=console.step)
    shot = Shot(
        name="demo",
        bundle=bundle,
        reference=reference,
        pose=INPUTS / "pose",
        output=Output.at(str(video)),
        fps=FRAME_RATE,
        contact_sheet=sheet,
    )
    with Animator.load(bundle) as animator:
        steps = len(shot.options.resolve(animator.bundle.manifest).steps)
        make(shot, animator, force=True, progress=clip_bar(console, steps))
    console.bar.close()
    print(f"video: {video}\ncontact sheet: {sheet}\n{ABOUT}")
