"""The benchmark sizes, and their checkpoints and bundles."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ..atomic import atomic
from ..engines.bundle import new_bundle, open_bundle, seal
from ..engines.contract import ShapeBucket
from ..engines.precision import Backend, Precision
from ..runtime.clip.options import ClipOptions
from .workload import Workload

RECORDED = Path(__file__).parents[1] / "tests" / "data" / "small"  # in the package for this purpose
RECORDED_CHECKPOINT = RECORDED / "checkpoint", RECORDED / "inference.yaml"


@dataclass(frozen=True, slots=True)
class Size:
    """A workload and the random checkpoint (random_checkpoint.py) it runs on; None is the recorded one.

    alone: one peer after another, as a machine with 24 GB does not hold two at this size.
    """

    workload: Workload
    checkpoint: str | None
    alone: bool = False


def full(width: int, height: int) -> Size:
    return Size(workload(width, height, window=24, steps=25), "sd15")


def workload(
    width: int, height: int, *, window: int, steps: int, frames: int | None = None, overlap: int = 4
) -> Workload:
    """Clips with guidance, of one window unless `frames` is given."""
    bucket = ShapeBucket(width=width, height=height, window=window)
    options = ClipOptions(steps=steps, guidance_scale=3.5, overlap=overlap)
    return Workload(bucket=bucket, frames=frames or window, options=options)


SIZES = {
    "small": Size(workload(64, 96, window=6, steps=4, frames=10, overlap=2), None),
    "mid": Size(workload(256, 256, window=16, steps=10), "mid"),
    "sd15-cpu": Size(workload(256, 384, window=8, steps=4), "sd15", alone=True),
    "full-512": full(512, 512),
    "full-768": full(512, 768),
}


def checkpoint_of(size: str, folder: Path, progress: Callable[[str], None]) -> tuple[Path, Path]:
    """Checkpoint and inference.yaml of a size, created in `folder` if missing."""
    name = SIZES[size].checkpoint
    if name is None:
        return RECORDED_CHECKPOINT
    path = folder / f"checkpoint-{name}"
    if not path.is_dir():
        from .random_checkpoint import write_random_checkpoint

        progress(f"make checkpoint {name}")
        with atomic(path) as temporary:
            write_random_checkpoint(temporary, name)
    return path, path / "inference.yaml"


def bundles_of(size: str, folder: Path, progress: Callable[[str], None]) -> list[Path]:
    """Our bundles for this machine, built in `folder` if missing: TensorRT on a GPU, otherwise OpenVINO in
    every precision the CPU supports."""
    from ..export import build_bundle

    bucket = SIZES[size].workload.bucket
    checkpoint, inference_config = checkpoint_of(size, folder, progress)
    backend: Backend = "tensorrt" if on_gpu() else "openvino"
    path = folder / f"{size}-{backend}"
    if not path.is_dir():
        build_bundle(
            checkpoint,
            path,
            width=bucket.width,
            height=bucket.height,
            window=bucket.window,
            backend=backend,
            inference_config=inference_config,
            progress=progress,
        )
    if backend == "tensorrt" or not computes_bf16():
        return [path]
    bf16 = folder / f"{size}-{backend}-bf16"
    if not bf16.is_dir():
        in_precision(path, bf16, "bf16")
    return [path, bf16]


def in_precision(bundle: Path, target: Path, precision: Precision) -> None:
    """Copy an OpenVINO bundle with another precision; only the manifest differs, as OpenVINO converts the
    same graphs when it compiles them."""
    from ..engines.cpu.openvino import precision_of
    from ..export.graph_memory import memory_of

    manifest = open_bundle(bundle).manifest
    with new_bundle(target) as folder:
        for kind in ("graphs", "engines"):
            shutil.copytree(bundle / kind, folder / kind, copy_function=os.link)
        memory = {
            graph: memory_of(
                ElementTree.parse(folder / manifest.engine(graph)).getroot(), precision_of(graph, precision)
            )
            for graph in manifest.graphs
        }
        seal(folder, dataclasses.replace(manifest, precision=precision, memory=memory))


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def computes_bf16() -> bool:
    from ..engines.cpu.openvino import has_bfloat16, new_core

    return has_bfloat16(new_core())
