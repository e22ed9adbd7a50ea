"""The small model as shipped, in other precisions, and with parts of it disabled."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ....engines import contract
from ....engines.backends import load_engine
from ....engines.bundle import Bundle, open_bundle
from ....engines.contract import ShapeBucket, contracts
from ....engines.cpu.device import CPUDevice
from ....engines.device import Buffer, Device, Stream
from ....engines.engine import Context, Engine
from ....engines.files import hashed
from ....engines.manifest import Manifest
from ....export import build_bundle, load_checkpoint
from ....export.onnx_graphs import export_graphs
from ....export.weight_file import WEIGHTS, WeightFile
from ....runtime.animator import Animator
from ...baselines.onnx_engine import load_onnx_engine
from ...sizes import computes_bf16, in_precision
from ..training.dataset import FRAMES
from ..training.model import SIZE

BUCKET = ShapeBucket(width=SIZE, height=SIZE, window=FRAMES)


def build(checkpoint: Path, bundle: Path, base: Path | None = None, **options: Any) -> Path:
    """Build a bundle for the CPU, unless it exists and was built from these weights.

    `options` are others of `build_bundle`; the precision is float32 unless they state it.
    """
    if not bundle.is_dir() or not is_built_from(bundle, checkpoint, base):
        size: dict[str, Any] = {"width": SIZE, "height": SIZE, "window": FRAMES}
        build_bundle(checkpoint, bundle, **size, base=base, **options)
    return bundle


def is_built_from(bundle: Path, checkpoint: Path, base: Path | None) -> bool:
    weights = open_bundle(bundle).manifest.weights
    folders = [checkpoint, base] if base else [checkpoint]
    files = {name: [folder / name for folder in folders if (folder / name).is_file()] for name in weights}
    return all(files[name] and hashed(files[name][0]).file.sha256 == weights[name] for name in weights)


def in_fastest_precision(bundle: Path) -> Path:
    """A copy in bfloat16 where the CPU supports it, which is several times faster; else the bundle itself."""
    if not computes_bf16():
        return bundle
    target = bundle.with_name(f"{bundle.name}-bf16")
    in_precision(bundle, target, "bf16")
    return target


def without_motion(checkpoint: Path, target: Path) -> Path:
    """A copy of the checkpoint in which the motion modules output zero."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for entry in checkpoint.iterdir():
        (target / entry.name).symlink_to(entry.absolute())
    path = target / "motion_module.safetensors"
    path.unlink()
    weights = load_file(checkpoint / path.name)
    save_file({name: w * 0 if ".proj_out." in name else w for name, w in weights.items()}, path)
    return target


def load_without_input(bundle: Bundle, what: str) -> Animator:
    """An animator whose denoising UNet (the variant with guidance) reads zeros instead of one of its inputs:
    `pose_features`, or `guidance_scale`, which leaves only the unconditional half, without a reference."""
    return Animator(bundle, load=partial(load_silenced, what))


def load_silenced(what: str, bundle: Bundle, graph: str, device: Device) -> Engine:
    engine = load_engine(bundle, graph, device)
    return SilencedEngine(engine, what, device) if graph == contract.DENOISING_UNET else engine


class SilencedEngine:
    """An engine that reads zeros for one of its inputs, whatever buffer is bound to it."""

    def __init__(self, engine: Engine, name: str, device: Device):
        self.engine, self.name = engine, name
        self.contract, self.activation_bytes = engine.contract, engine.activation_bytes
        (spec,) = [spec for spec in engine.contract.inputs if spec.name == name]
        self.silence = device.buffer(spec.dtype, spec.shape)
        assert self.silence.array is not None  # on the CPU
        self.silence.array[...] = 0

    @property
    def runs(self) -> int:
        return self.engine.runs

    def context(self, workspace: Buffer | None) -> SilencedContext:
        return SilencedContext(self, self.engine.context(workspace))


class SilencedContext:
    def __init__(self, engine: SilencedEngine, context: Context):
        self.engine, self.context = engine, context

    def bind(self, name: str, buffer: Buffer) -> None:
        self.context.bind(name, self.engine.silence if name == self.engine.name else buffer)

    def enqueue(self, stream: Stream) -> None:
        self.context.enqueue(stream)


def in_float16(checkpoint: Path, folder: Path) -> Animator:
    """The graphs for TensorRT (float16 with float32 islands) in an animator on ONNX Runtime and the CPU."""
    loaded = load_checkpoint(checkpoint, None, torch.float16)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "graphs").mkdir(parents=True)
    with (folder / "graphs" / WEIGHTS).open("wb") as file:
        export_graphs(loaded, BUCKET, folder / "graphs", WeightFile(file))
    manifest = Manifest(
        model=loaded.config,
        bucket=BUCKET,
        backend="tensorrt",
        backend_version="none: ONNX Runtime",
        compute_capabilities=(),
        precision="fp16",
        weights=dict(loaded.weights),
        graphs=contracts(loaded.config, BUCKET, "float16"),
    )
    return Animator(Bundle(folder, manifest, digest=""), device=CPUDevice(), load=load_onnx_engine)
