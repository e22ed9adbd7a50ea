"""The demo: a bundle from the checkpoint that ships with the package, a clip, and a contact sheet of it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from .export import build_bundle
from .runtime.animator import Animator, ProgressCallback
from .runtime.contact_sheet import contact_sheet
from .runtime.picture import fit, read_picture, write_png
from .runtime.pose import open_pose
from .runtime.writer import open_writer

CASE = Path(__file__).parent / "tests" / "data" / "small"
NUM_STEPS = 10
WIDTH, HEIGHT, WINDOW = 64, 96, 6  # what these weights were recorded at
FRAME_RATE = Fraction(8)
ABOUT_WEIGHTS = "the weights are random, so the frames are noise; they only show that everything works"


def run_demo(folder: Path, building: Callable[[str], None], animating: ProgressCallback) -> tuple[Path, Path]:
    """Write `bundle/`, `demo.mp4` and `contact-sheet.png` into `folder`; returns the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle, video, sheet = folder / "bundle", folder / "demo.mp4", folder / "contact-sheet.png"
    build_bundle(
        CASE / "checkpoint",
        bundle,
        width=WIDTH,
        height=HEIGHT,
        window=WINDOW,
        inference_config=CASE / "inference.yaml",
        progress=building,
    )
    reference = read_picture(CASE / "reference.png")
    poses = [fit(picture, WIDTH, HEIGHT) for picture in open_pose(CASE / "pose", None)]
    frames = []
    with Animator.load(bundle) as animator, open_writer(video, WIDTH, HEIGHT, FRAME_RATE) as writer:
        for frame in animator.animate(reference, poses, steps=NUM_STEPS, overlap=2, progress=animating):
            writer.write(frame)
            frames.append(frame)
    write_png(sheet, contact_sheet(fit(reference, WIDTH, HEIGHT), poses, frames))
    return video, sheet
