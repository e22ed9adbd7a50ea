"""The demo: a bundle from the weights that ship with the package, a clip, and a contact sheet of it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from .benchmarks.puppets.training.dataset import FRAMES
from .benchmarks.puppets.training.model import SAMPLING, SIZE, WEIGHTS
from .benchmarks.puppets.world.scene import Scene
from .export import build_bundle
from .runtime.animator import Animator
from .runtime.clip.progress import ProgressCallback
from .runtime.media.contact_sheet import contact_sheet
from .runtime.media.picture import write_png
from .runtime.media.writer import open_writer

SEED = 1007  # of a held-out scene: nothing of it was seen in training
NUM_FRAMES, FRAME_RATE = 24, Fraction(12)
NUM_STEPS = int(SAMPLING["steps"])
ABOUT_WEIGHTS = "a small model of drawn puppets made it; how good it is: weights/puppets/README.md"


def run_demo(folder: Path, building: Callable[[str], None], animating: ProgressCallback) -> tuple[Path, Path]:
    """Write `bundle/`, `demo.mp4` and `contact-sheet.png` into `folder`; returns the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle, video, sheet = folder / "bundle", folder / "demo.mp4", folder / "contact-sheet.png"
    build_bundle(WEIGHTS, bundle, width=SIZE, height=SIZE, window=FRAMES, progress=building)
    scene = Scene("held-out", SEED, SIZE)
    reference, poses, frames = scene.reference(), [scene.pose(i) for i in range(NUM_FRAMES)], []
    with Animator.load(bundle) as animator, open_writer(video, SIZE, SIZE, FRAME_RATE) as writer:
        for frame in animator.animate(reference, poses, progress=animating):
            writer.write(frame)
            frames.append(frame)
    write_png(sheet, contact_sheet(reference, poses, frames))
    return video, sheet
