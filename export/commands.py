"""Commands that need packages for export: `build` and `build-poses`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..console import Commands, Console, add_command, need_packages
from ..engines.cuda.plan import COMPUTE_CAPABILITIES, PlanOptions
from ..engines.precision import DEFAULT_PRECISION, PRECISIONS
from ..errors import ConfigError

MAX_GIGABYTES = 100_000  # of device memory
MODULES = ("torch", "onnx", "onnxscript", "safetensors", "yaml")


def add_commands(commands: Commands) -> None:
    command = add_command(commands, build, "build a bundle of engines from a checkpoint")
    command.add_argument(
        "checkpoint", type=Path, help="directory in the public layout (denoising_unet.pth, ...)"
    )
    command.add_argument(
        "bundle", type=Path, help="directory to write; an existing bundle of that name is replaced"
    )
    command.add_argument(
        "--base",
        type=Path,
        metavar="DIR",
        help="checkpoint directory for files that the first one lacks; few-step weights are often only a "
        "denoising UNet",
    )
    command.add_argument(
        "--width", type=int, required=True, help="width of the video in pixels, a multiple of 8"
    )
    command.add_argument(
        "--height", type=int, required=True, help="height of the video in pixels, a multiple of 8"
    )
    command.add_argument(
        "--window",
        type=int,
        required=True,
        help="frames denoised together; the public weights were trained with 24",
    )
    add_backend(command)
    command.add_argument(
        "--precision",
        choices=sorted(PRECISIONS),
        help="fp32 (default), bf16 or int8 with openvino, fp16 (default) or fp32 with tensorrt; int8 is "
        "lossy: the UNet's convolutions and linear layers in 8 bits, all else in bf16 if the CPU has it",
    )
    command.add_argument(
        "--calibration",
        type=Path,
        nargs="+",
        metavar="CLIP",
        default=[],
        help="with --precision int8: clips like those that will be made, used to choose the ranges of 8-bit "
        "numbers; each a folder with a picture named reference and pose frames named pose, or a "
        "video of a person (default: the clip of animate-rt demo)",
    )
    command.add_argument(
        "--inference-config",
        type=Path,
        metavar="FILE",
        help="inference.yaml (default: the checkpoint's own, else the public v2 settings)",
    )
    command.add_argument(
        "--feature-cache",
        action="store_true",
        help="add the graphs that animate --cache-interval runs; TensorRT then compiles twice as many UNets",
    )
    add_plan_options(command)

    command = add_command(
        commands, build_poses, "build a bundle of networks that find people from ONNX files"
    )
    command.add_argument(
        "directory",
        type=Path,
        help="directory with a YOLOX detector and a whole-body network (DWPose, RTMW, ViTPose) as ONNX files",
    )
    command.add_argument(
        "bundle", type=Path, help="directory to write; an existing bundle of that name is replaced"
    )
    add_backend(command)
    add_plan_options(command)


def add_backend(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--backend",
        choices=DEFAULT_PRECISION,
        default="openvino",
        help="library that runs the engines (default: %(default)s)",
    )


def add_plan_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--compute-capability",
        nargs="+",
        metavar="SM",
        help=f"GPUs to build for, with tensorrt-rtx (default: {' '.join(COMPUTE_CAPABILITIES)}); "
        "tensorrt builds for the GPU of this machine",
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
        help="device memory that a tensorrt engine may use while it runs (default: no limit)",
    )


def build(options: argparse.Namespace, console: Console) -> None:
    need_export()
    from .build import build_bundle

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
        feature_cache=options.feature_cache,
        calibration=options.calibration,
        plans=plan_options(options),
        progress=console.step,
    )
    console.bar.close()
    print(options.bundle)


def build_poses(options: argparse.Namespace, console: Console) -> None:
    need_packages("export", "onnx", "onnx_ir")
    from .pose_bundle import build_pose_bundle

    build_pose_bundle(
        options.directory,
        options.bundle,
        backend=options.backend,
        plans=plan_options(options),
        progress=console.step,
    )
    console.bar.close()
    print(options.bundle)


def plan_options(options: argparse.Namespace) -> PlanOptions | None:
    """The options of TensorRT plans, or None if none was given."""
    given: dict[str, Any] = {
        "compute_capabilities": options.compute_capability and tuple(options.compute_capability),
        "optimization_level": options.optimization_level,
        "workspace_bytes": None if options.workspace is None else whole_bytes(options.workspace),
    }
    given = {name: value for name, value in given.items() if value is not None}
    return PlanOptions(**given) if given else None


def whole_bytes(gigabytes: float) -> int:
    if not 0 < gigabytes < MAX_GIGABYTES:
        raise ConfigError(
            f"workspace: expected more than 0 and less than {MAX_GIGABYTES:,} GB, found {gigabytes}"
        )
    return int(gigabytes * 1e9)


def need_export() -> None:
    """Raise ConfigError if a package that exporting needs is missing."""
    need_packages("export", *MODULES)
