"""The command line: parse, call the library, turn errors into one line and an exit status."""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from fractions import Fraction
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .benchmarks.commands import add_bench
from .engines.bundle import open_bundle
from .engines.cuda.plan import COMPUTE_CAPABILITIES, PlanOptions
from .engines.inspect import report
from .engines.model import Schedule
from .engines.precision import DEFAULT_PRECISION, PRECISIONS
from .errors import AnimateError, ConfigError
from .runtime.clip.clip import WHOLE_SCHEDULE
from .runtime.clip.memory_plan import memory_report
from .runtime.clip.order import ORDERS
from .runtime.clip.sampler import num_steps
from .runtime.clip.windows import POLICIES
from .runtime.farm.commands import add_again, add_command, add_farm, make_one
from .runtime.shots.job_list import frame_rate
from .runtime.shots.monitor import INTERNAL, Monitor, SignalGuard, failure_of
from .runtime.shots.output import Output
from .runtime.shots.shot import Shot

EXPORT_MODULES = ("torch", "onnx", "onnxscript", "safetensors", "yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (errors.py lists them)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that a locale cannot spell stops nothing
    options = parser().parse_args(arguments)
    with SignalGuard() as stop:
        monitor = Monitor(stop)
        try:
            with monitor:
                options.run(options, monitor)
        except BaseException as error:
            failure = failure_of(error, stop)
            if failure.status == INTERNAL and not isinstance(error, AnimateError):
                traceback.print_exc()
            monitor.failed(failure)
            return failure.status
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
        base=options.base,
        inference_config=options.inference_config,
        plans=plan_options(options),
        progress=monitor.building,
    )
    monitor.bar.close()
    print(options.bundle)


def animate(options: argparse.Namespace, monitor: Monitor) -> None:
    name = options.name or Path(options.output).stem
    monitor.follow(name, options.progress)
    shot = Shot(
        name=name,
        bundle=options.bundle,
        reference=options.reference,
        pose=options.pose,
        output=Output.at(options.output, options.first_number, options.bits),
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        guidance_interval=tuple(options.guidance_interval),
        seed=options.seed,
        windows=options.windows,
        overlap=options.overlap,
        order=options.order,
        frames=options.frames,
        fps=options.fps,
        initial_noise=options.initial_noise,
        contact_sheet=options.contact_sheet,
    )
    make_one(shot, monitor, options.force)


def inspect(options: argparse.Namespace, _monitor: Monitor) -> None:
    bundle = open_bundle(options.bundle)
    steps = bundle.manifest.model.sampling.schedule if options.steps is None else options.steps
    print(f"{report(bundle)}\n\n{memory_report(bundle, options.frames, num_steps(steps))}")


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
    command.add_argument(
        "--base",
        type=Path,
        metavar="DIR",
        help="checkpoint that has what the first one lacks: few-step weights may be a denoising UNet alone",
    )
    command.add_argument("--width", type=int, required=True, help="of the video, in pixels: a multiple of 8")
    command.add_argument("--height", type=int, required=True, help="of the video, in pixels: a multiple of 8")
    command.add_argument(
        "--window", type=int, required=True, help="frames denoised together; the public weights know 24"
    )
    command.add_argument(
        "--backend",
        choices=DEFAULT_PRECISION,
        default="openvino",
        help="what runs it (default: %(default)s)",
    )
    command.add_argument(
        "--precision",
        choices=sorted(PRECISIONS),
        help="fp32 (default) or bf16 with openvino, fp16 (default) or fp32 with tensorrt",
    )
    command.add_argument(
        "--inference-config",
        type=Path,
        metavar="FILE",
        help="inference.yaml (default: the checkpoint's own, or else public v2)",
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
    command.add_argument(
        "--reference", type=Path, required=True, metavar="IMAGE", help="picture of the character"
    )
    command.add_argument(
        "--pose",
        type=Path,
        required=True,
        metavar="VIDEO|DIR",
        help="pose skeletons: mp4, mov, webm, gif, or images",
    )
    command.add_argument(
        "--output",
        required=True,
        metavar="OUT.mp4|OUT_DIR[/NAME.####.png]",
        help="video, which is replaced if it exists, or a directory of PNG frames, which may hold an earlier "
        "result and nothing else; a sidecar beside it says what it was made from",
    )
    add_steps(command)
    command.add_argument(
        "--guidance-scale",
        type=float,
        metavar="S",
        help="1 is none (default: what the weights were made for, which is 3.5 unless they say so)",
    )
    command.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        default=WHOLE_SCHEDULE,
        metavar=("START", "END"),
        help="guide only the steps between two shares of the schedule (default: 0 1)",
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
    command.add_argument(
        "--frames",
        metavar="N|A-B",
        help="the first N pose frames, or those from A to B, counted from 1, as a clip of their own "
        "(default: all)",
    )
    command.add_argument(
        "--first-number", type=int, default=0, metavar="N", help="of PNG frames (default: %(default)s)"
    )
    command.add_argument(
        "--bits",
        type=int,
        choices=(8, 16),
        default=8,
        help="per channel of PNG frames (default: %(default)s)",
    )
    command.add_argument("--fps", type=rate, metavar="R", help="frame rate (default: the pose's, or 24)")
    command.add_argument("--seed", type=int, default=42, help="of the noise (default: %(default)s)")
    command.add_argument(
        "--initial-noise",
        type=Path,
        metavar="FILE.npy",
        help="(1, 4, frames, height/8, width/8), not a seed",
    )
    command.add_argument(
        "--contact-sheet", type=Path, metavar="FILE.png", help="reference, poses and frames on one picture"
    )
    command.add_argument("--name", help="of the shot in progress and errors (default: the output's)")
    add_again(command)

    command = add_command(commands, inspect, "say what a bundle is, and what memory it will take")
    command.add_argument("bundle", type=Path, help="directory made by animate-rt build")
    command.add_argument(
        "--frames", type=int, default=240, metavar="N", help="of a clip to plan for (default: %(default)s)"
    )
    add_steps(command)

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

    add_farm(commands)
    add_bench(commands)
    return root


def add_steps(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--steps",
        type=schedule,
        metavar="N|T,T,...",
        help="denoising steps, or the timesteps that few-step weights want, like 999,749,499,249 "
        "(default: what the weights were made for, which is 25 unless they say so)",
    )


def schedule(text: str) -> Schedule:
    """25, or 999,749,499,249."""
    try:
        numbers = tuple(map(int, text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected 25, or timesteps like 999,749,499,249, found {text}"
        ) from error
    return numbers if len(numbers) > 1 else numbers[0]


def rate(text: str) -> Fraction:
    """Frames per second: 25, 29.97 or 30000/1001."""
    try:
        return frame_rate(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
