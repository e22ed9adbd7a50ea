"""The command line: parse, call the library, turn errors into one line and an exit status."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from .engines.bundle import PRECISIONS, open_bundle
from .engines.inspect import report
from .engines.plan import COMPUTE_CAPABILITIES, PlanOptions
from .errors import AnimateError, ConfigError
from .runtime.animator import Animator, Progress
from .runtime.memory_plan import memory_report
from .runtime.order import ORDERS
from .runtime.pose import open_pose
from .runtime.progress import ProgressBar
from .runtime.windows import POLICIES
from .runtime.writer import open_writer

DEFAULT_FRAME_RATE = Fraction(24)  # where the pose sequence has none: a directory of images
EXPORT_MODULES = ("torch", "onnx", "onnxscript", "safetensors", "yaml")
IO_ERROR, TRY_AGAIN, SIGNALLED = 74, 75, 128  # a signal's number is added to the last


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (errors.py lists them)."""
    options = parser().parse_args(arguments)
    with Stop() as stop:
        try:
            with Monitor(stop) as monitor:
                options.run(options, monitor)
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


def build(options: argparse.Namespace, monitor: Monitor) -> None:
    needs_export()
    from .export import build_bundle

    build_bundle(
        options.checkpoint,
        options.bundle,
        width=options.width,
        height=options.height,
        window=options.window,
        backend=options.backend,
        precision=options.precision,
        inference_config=options.inference_config,
        plans=plan_options(options),
        progress=monitor.building,
    )
    monitor.bar.close()
    print(options.bundle)


def animate(options: argparse.Namespace, monitor: Monitor) -> None:
    pose = open_pose(options.pose, options.frames)
    frame_rate = options.fps or pose.frame_rate or DEFAULT_FRAME_RATE
    with Animator.load(options.bundle) as animator:
        frames = animator.animate(
            options.reference,
            pose,
            steps=options.steps,
            guidance_scale=options.guidance_scale,
            seed=options.seed,
            windows=options.windows,
            overlap=options.overlap,
            order=options.order,
            initial_noise=options.initial_noise,
            progress=monitor.animating(options.steps),
        )
        bucket = animator.bucket
        with open_writer(options.output, bucket.width, bucket.height, frame_rate) as writer:
            for frame in frames:
                writer.write(frame)
    monitor.bar.close()
    print(options.output)


def inspect(options: argparse.Namespace, _monitor: Monitor) -> None:
    bundle = open_bundle(options.bundle)
    print(f"{report(bundle)}\n\n{memory_report(bundle, options.frames, options.steps)}")


def verify(options: argparse.Namespace, monitor: Monitor) -> None:
    from .engines.verify import check, table
    from .engines.verify import verify as compare

    bundle = open_bundle(options.bundle)
    comparisons = compare(bundle, monitor.verifying)
    monitor.bar.close()
    print(table(comparisons))
    check(bundle, comparisons)


def demo(options: argparse.Namespace, monitor: Monitor) -> None:
    needs_export()
    from .demo import ABOUT_WEIGHTS, NUM_STEPS, run_demo

    video, sheet = run_demo(options.output, monitor.building, monitor.animating(NUM_STEPS))
    monitor.bar.close()
    print(f"video: {video}\ncontact sheet: {sheet}\n{ABOUT_WEIGHTS}")


def plan_options(options: argparse.Namespace) -> PlanOptions | None:
    """What was said about plans, if anything was."""
    said: dict[str, Any] = {
        "compute_capabilities": options.compute_capability and tuple(options.compute_capability),
        "optimization_level": options.optimization_level,
        "workspace_bytes": options.workspace and int(options.workspace * 1e9),
    }
    said = {name: value for name, value in said.items() if value is not None}
    return PlanOptions(**said) if said else None


def needs_export() -> None:
    """Say what to install before an import says it in many lines."""
    if missing := [name for name in EXPORT_MODULES if not find_spec(name)]:
        raise ConfigError(
            f"this command exports networks: expected the packages of animate-rt[export], "
            f"found no {', '.join(missing)}; pip install torch==2.13.0 'animate-rt[export]'"
        )


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="animate-rt",
        description="Animate Anyone: a reference image and a sequence of poses in, a video out. "
        "Make a bundle of engines once per checkpoint and size with `build`, then use it with `animate`.",
    )
    root.add_argument("--version", action="version", version=f"animate-rt {metadata.version('animate-rt')}")
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    command = add_command(commands, build, "make a bundle of engines from a checkpoint")
    command.add_argument(
        "checkpoint",
        type=Path,
        help="directory in the public layout (denoising_unet.pth, ...)",
    )
    command.add_argument("bundle", type=Path, help="directory to write; a bundle of that name is replaced")
    command.add_argument("--width", type=int, required=True, help="of the video, in pixels: a multiple of 8")
    command.add_argument("--height", type=int, required=True, help="of the video, in pixels: a multiple of 8")
    command.add_argument(
        "--window", type=int, required=True, help="frames denoised together; the public weights know 24"
    )
    command.add_argument(
        "--backend",
        choices=PRECISIONS,
        default="openvino",
        help="what runs it (default: %(default)s)",
    )
    command.add_argument(
        "--precision",
        choices=sorted({p for ps in PRECISIONS.values() for p in ps}),
        help="fp32 (default) or bf16 with openvino, fp16 (default) or fp32 with tensorrt",
    )
    command.add_argument(
        "--inference-config",
        type=Path,
        metavar="FILE",
        help="inference.yaml (default: public v2)",
    )
    command.add_argument(
        "--compute-capability",
        nargs="+",
        metavar="SM",
        help=f"of the GPUs to build for, with tensorrt-rtx (default: {' '.join(COMPUTE_CAPABILITIES)}); "
        "tensorrt itself builds for the GPU at hand",
    )
    command.add_argument(
        "--optimization-level",
        type=int,
        metavar="N",
        help="0 to 5: how long tensorrt searches for faster kernels (default: 3)",
    )
    command.add_argument(
        "--workspace",
        type=float,
        metavar="GB",
        help="device memory that an engine of tensorrt may use while it runs (default: no limit)",
    )

    command = add_command(commands, animate, "make a video of a reference image and pose frames")
    command.add_argument("bundle", type=Path, help="directory made by animate-rt build")
    command.add_argument("--reference", required=True, metavar="IMAGE", help="picture of the character")
    command.add_argument(
        "--pose", required=True, metavar="VIDEO|DIR", help="pose skeletons: mp4, mov, webm, gif, or images"
    )
    command.add_argument(
        "--output",
        required=True,
        metavar="OUT.mp4|OUT_DIR",
        help="video, which is replaced if it exists, or a new directory of PNG frames",
    )
    command.add_argument("--steps", type=int, default=25, help="denoising steps (default: %(default)s)")
    command.add_argument(
        "--guidance-scale", type=float, default=3.5, metavar="S", help="1 is none (default: %(default)s)"
    )
    command.add_argument(
        "--windows",
        choices=POLICIES,
        default="uniform",
        help="uniform wraps around to the first frames as the public code does, open does not "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--order",
        choices=ORDERS,
        help="time-skewed (default with open windows): first frames early, no more memory for a longer clip; "
        "step-major: the whole clip, step by step; the frames are the same",
    )
    command.add_argument(
        "--overlap", type=int, metavar="N", help="frames that neighbouring windows share (default: 4)"
    )
    command.add_argument("--frames", type=int, metavar="N", help="the first N pose frames (default: all)")
    command.add_argument("--fps", type=rate, metavar="R", help="frame rate (default: the pose's, or 24)")
    command.add_argument("--seed", type=int, default=42, help="of the noise (default: %(default)s)")
    command.add_argument(
        "--initial-noise",
        metavar="FILE.npy",
        help="(1, 4, frames, height/8, width/8), not a seed",
    )

    command = add_command(commands, inspect, "say what a bundle is, and what memory it will take")
    command.add_argument("bundle", type=Path, help="directory made by animate-rt build")
    command.add_argument(
        "--frames", type=int, default=240, metavar="N", help="of a clip to plan for (default: %(default)s)"
    )
    command.add_argument("--steps", type=int, default=25, help="denoising steps (default: %(default)s)")

    command = add_command(commands, verify, "compare the engines of a bundle with ONNX Runtime")
    command.add_argument("bundle", type=Path, help="directory made by animate-rt build")

    command = add_command(commands, demo, "build a small bundle and animate a picture that comes along")
    command.add_argument(
        "--output",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="folder to fill (default: %(default)s)",
    )
    return root


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    run: Callable[[argparse.Namespace, Monitor], None],
    purpose: str,
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(run.__name__, help=purpose, description=purpose)
    command.set_defaults(run=run)
    return command


def rate(text: str) -> Fraction:
    """Frames per second: 25, 29.97 or 30000/1001."""
    try:
        value = Fraction(text).limit_denominator(1001)
    except (ValueError, ZeroDivisionError, OverflowError):
        value = Fraction(0)
    if not Fraction(1, 1000) <= value <= 1000:
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


class Monitor:
    """What a running command tells of itself, and where it stops when it has been asked to."""

    def __init__(self, stop: Stop):
        self.stop = stop
        self.bar = ProgressBar(sys.stderr)

    def building(self, what: str) -> None:
        self.stop.check()
        stage, _, detail = what.partition(": ")
        self.bar.show(stage, detail=detail)

    def verifying(self, graph: str) -> None:
        self.building(f"verify {graph}")

    def animating(self, num_steps: int) -> Callable[[Progress], None]:
        """Stages overlap: what is shown is how far denoising has come, and before and after it the others."""
        shown, num_frames = "pose", 0

        def show(progress: Progress) -> None:
            nonlocal shown, num_frames
            self.stop.check()
            stage, done, total = progress
            if stage == "denoise":
                shown = "denoise" if done != total else "decode"
                if num_frames or not total:
                    detail = f"{num_frames} frames finished"
                else:
                    detail = f"step {min(done * num_steps // total + 1, num_steps)}/{num_steps}"
                self.bar.show(stage, done, total, detail)
            elif stage == shown:
                self.bar.show(stage, done, total, f"frame {done}/{total or '?'}")
            num_frames = done if stage == "decode" else num_frames

        return show

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def complain(message: str, status: int) -> int:
    print(f"animate-rt: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
