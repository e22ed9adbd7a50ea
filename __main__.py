"""The command line: parse, call the library, turn errors into one line and an exit status."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from .engines.bundle import PRECISIONS, open_bundle
from .engines.inspect import report
from .errors import AnimateError
from .runtime.animator import Animator, Progress
from .runtime.pose import open_pose
from .runtime.windows import POLICIES
from .runtime.writer import open_writer

DEFAULT_FRAME_RATE = Fraction(24)  # where the pose sequence has none: a directory of images
UNITS = {"pose": "frame", "denoise": "window", "decode": "frame"}
IO_ERROR, TRY_AGAIN, SIGNALLED = 74, 75, 128  # a signal's number is added to the last


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (errors.py lists them)."""
    options = parser().parse_args(arguments)
    with Stop() as stop:
        try:
            options.run(options, StageBar(stop))
        except BaseException as error:
            if stop.status:
                return complain("stopped; nothing was left under the output's name", stop.status)
            if isinstance(error, AnimateError):
                return complain(str(error), error.exit_status)
            if isinstance(error, MemoryError):
                return complain("out of memory; use a smaller size, window or number of frames", TRY_AGAIN)
            if isinstance(error, OSError):
                return complain(str(error), IO_ERROR)
            raise
    return 0


def build(options: argparse.Namespace, bar: StageBar) -> None:
    from .export import build_bundle  # needs torch

    with bar:
        build_bundle(
            options.checkpoint,
            options.bundle,
            width=options.width,
            height=options.height,
            window=options.window,
            backend=options.backend,
            precision=options.precision,
            inference_config=options.inference_config,
            progress=bar.begin,
        )
    print(options.bundle)


def animate(options: argparse.Namespace, bar: StageBar) -> None:
    pose = open_pose(options.pose, options.frames)
    frame_rate = options.fps or pose.frame_rate or DEFAULT_FRAME_RATE
    with Animator.load(options.bundle) as animator, bar:
        frames = animator.animate(
            options.reference,
            pose,
            steps=options.steps,
            guidance_scale=options.guidance_scale,
            seed=options.seed,
            windows=options.windows,
            overlap=options.overlap,
            initial_noise=options.initial_noise,
            progress=bar.show,
        )
        bucket = animator.bucket
        with open_writer(options.output, bucket.width, bucket.height, frame_rate) as writer:
            for frame in frames:
                writer.write(frame)
    print(options.output)


def inspect(options: argparse.Namespace, _bar: StageBar) -> None:
    print(report(open_bundle(options.bundle)))


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="animate-rt", description="Animate Anyone, fast.")
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    command = add_command(commands, build, "make a bundle of engines from a checkpoint")
    command.add_argument("checkpoint", type=Path, help="directory in the public layout")
    command.add_argument("bundle", type=Path, help="directory to write")
    command.add_argument("--width", type=int, required=True, help="pixels")
    command.add_argument("--height", type=int, required=True, help="pixels")
    command.add_argument("--window", type=int, required=True, help="frames denoised together")
    command.add_argument("--backend", choices=PRECISIONS, default="openvino")
    command.add_argument(
        "--precision", choices=sorted({p for ps in PRECISIONS.values() for p in ps}), help="backend's default"
    )
    command.add_argument("--inference-config", type=Path, metavar="FILE", help="public inference.yaml")

    command = add_command(commands, animate, "make a video of a reference image and pose frames")
    command.add_argument("bundle", type=Path)
    command.add_argument("--reference", required=True, metavar="IMAGE")
    command.add_argument("--pose", required=True, metavar="VIDEO|DIR")
    command.add_argument("--output", required=True, metavar="OUT.mp4|OUT_DIR", type=Path)
    command.add_argument("--steps", type=int, default=25)
    command.add_argument("--guidance-scale", type=float, default=3.5, help="1 is none")
    command.add_argument("--windows", choices=POLICIES, default="uniform")
    command.add_argument("--overlap", type=int, help="frames shared by neighbouring windows (default: 4)")
    command.add_argument("--frames", type=int, help="take that many pose frames (default: all)")
    command.add_argument("--fps", type=rate, help="frames per second (default: the pose video's)")
    command.add_argument("--seed", type=int, default=42)
    command.add_argument(
        "--initial-noise", metavar="FILE.npy", help="(1, 4, frames, h, w), instead of a seed"
    )

    command = add_command(commands, inspect, "verify a bundle and say what is in it")
    command.add_argument("bundle", type=Path)
    return root


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    run: Callable[[argparse.Namespace, StageBar], None],
    purpose: str,
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(run.__name__, help=purpose, description=purpose)
    command.set_defaults(run=run)
    return command


def rate(text: str) -> Fraction:
    """Frames per second: 25, 29.97 or 30000/1001."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"expected frames per second like 25 or 30000/1001, found {text}")
    return value


class Stop:
    """SIGINT and SIGTERM, turned into SystemExit where it is safe: at the next `check`.

    Raised at once it could strike inside an import and leave that module's lock held for ever. Whoever cannot
    wait signals twice.
    """

    def __init__(self) -> None:
        self.status = 0

    def check(self) -> None:
        if self.status:
            raise SystemExit(self.status)

    def __enter__(self) -> Stop:
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self.note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, _frame: FrameType | None) -> None:
        self.check()
        self.status = SIGNALLED + number


class StageBar:
    """Progress on standard error, one bar per stage; silent where that is no terminal."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.bar: tqdm[Any] | None = None

    def show(self, progress: Progress) -> None:
        self.stop.check()
        if progress.done == 0:
            self.begin(progress.stage, progress.total, UNITS[progress.stage])
        elif self.bar is not None:
            self.bar.update(progress.done - self.bar.n)

    def begin(self, stage: str, total: int | None = None, unit: str = "") -> None:
        self.stop.check()
        self.close()
        layout = None if unit else "{desc} [{elapsed}]"
        self.bar = tqdm(desc=stage, total=total, unit=unit, disable=None, bar_format=layout)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def __enter__(self) -> StageBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def complain(message: str, status: int) -> int:
    print(f"animate-rt: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
