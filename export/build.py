"""Builds a bundle from a checkpoint: weights, graphs, engines, manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..console import need_packages
from ..engines.bundle import new_bundle, seal
from ..engines.contract import Memory, ShapeBucket, contracts
from ..engines.cpu import openvino
from ..engines.cuda import tensorrt
from ..engines.cuda.plan import PlanOptions, compute_capabilities
from ..engines.manifest import Manifest
from ..engines.precision import DEFAULT_PRECISION, PRECISIONS, Backend, Precision
from ..errors import ConfigError
from ..text import quoted
from .calibration import find_clips
from .checkpoints.checkpoint import load_checkpoint
from .onnx_graphs import export_graphs
from .plans import compile_graph
from .quantization import quantize_graphs
from .saved_graphs import save_graphs
from .weight_file import WEIGHTS, WeightFile


def build_bundle(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    width: int,
    height: int,
    window: int,
    base: str | os.PathLike[str] | None = None,
    backend: Backend = "openvino",
    precision: Precision | None = None,
    inference_config: str | os.PathLike[str] | None = None,
    feature_cache: bool = False,
    calibration: Sequence[str | os.PathLike[str]] = (),
    plans: PlanOptions | None = None,
    progress: Callable[[str], None] = lambda _what: None,
) -> None:
    """Export a checkpoint directory for one size and window, compile the graphs, and write a bundle.

    width and height are in pixels, window in frames. `precision` defaults to the backend's entry in
    DEFAULT_PRECISION. `base` is a checkpoint directory for files that the first one lacks; few-step weights
    are often only a denoising UNet. `inference_config` is a public inference.yaml; sections that it lacks
    come from the checkpoint's own file, then from its base's, then from the public v2 settings.
    `feature_cache` adds the graphs that clips with a `cache_interval` run. `calibration` is only for
    precision int8: clips used to choose the ranges of 8-bit numbers, folders with a picture named reference
    and pose frames named pose, or videos of a person; by default the clip of the demo. `plans` is only for
    backend tensorrt. `progress` is called at the start of each step ("export denoising_unet") and
    repeatedly during long ones ("compile denoising_unet: timing tactics 1/3"); an exception from it stops the
    build. An existing bundle at that path is replaced at the end.

    Raises InputError, ConfigError, CheckpointError, BuildError, DeviceError or OutputError, and then leaves
    the path as it was.
    """
    if backend not in tuple(DEFAULT_PRECISION):
        raise ConfigError(f"backend: expected one of {', '.join(DEFAULT_PRECISION)}, found {quoted(backend)}")
    precision = precision or DEFAULT_PRECISION[backend]
    possible = [name for name, numerics in PRECISIONS.items() if backend in numerics.backends]
    if precision not in possible:
        raise ConfigError(
            f"precision: expected one of {', '.join(possible)} with backend {backend}, "
            f"found {quoted(precision)}"
        )
    if plans and backend != "tensorrt":
        raise ConfigError(
            "compute capability, optimization level and workspace: expected only with backend tensorrt, "
            f"found with {backend}"
        )
    if calibration and precision != "int8":
        raise ConfigError(f"calibration: expected only with precision int8, found with {precision}")
    clips = []
    if precision == "int8":
        need_packages("export", "nncf")
        clips = find_clips([Path(path) for path in calibration])
    plans = plans or PlanOptions()
    backend_version = {"openvino": openvino, "tensorrt": tensorrt}[backend].version()
    capabilities = compute_capabilities(plans) if backend == "tensorrt" else ()
    bucket = ShapeBucket(width=width, height=height, window=window)
    dtype = PRECISIONS[precision].graph_dtype
    with new_bundle(bundle) as folder:
        progress("load checkpoint")
        loaded = load_checkpoint(
            checkpoint, inference_config, getattr(torch, dtype), base=base, bucket=bucket
        )
        graphs = contracts(loaded.config, bucket, dtype, feature_cache=feature_cache)
        manifest = Manifest(
            model=loaded.config,
            bucket=bucket,
            feature_cache=feature_cache,
            backend=backend,
            backend_version=backend_version,
            compute_capabilities=capabilities,
            precision=precision,
            calibration={clip.path.name: clip.digest for clip in clips},
            weights=dict(loaded.weights),
            graphs=graphs,
        )
        memory: dict[str, Memory | None] = {}
        (folder / "graphs").mkdir()
        with (folder / "graphs" / WEIGHTS).open("wb") as file:
            stored = WeightFile(file, halve=backend == "openvino")
            export_graphs(
                loaded,
                bucket,
                folder / "graphs",
                stored,
                lambda graph: progress(f"export {graph}"),
                feature_cache=feature_cache,
            )
            del loaded  # the compiler needs the memory
            if backend == "openvino":
                memory |= save_graphs(
                    folder, graphs, stored, precision, lambda graph: progress(f"save {graph}")
                )
                progress(f"weights: {stored}")
            if clips:
                saved = replace(manifest, memory=known(memory))
                memory |= quantize_graphs(folder, saved, stored, clips, progress)
        if backend == "tensorrt":
            (folder / "engines").mkdir()
            for graph in graphs:
                memory[graph] = compile_graph(folder, graph, plans, progress)
        progress("seal")
        seal(folder, replace(manifest, memory=known(memory)))


def known(memory: dict[str, Memory | None]) -> dict[str, Memory]:
    """The memory of all graphs, or nothing if that of one is not known."""
    stated = {graph: needed for graph, needed in memory.items() if needed}
    return stated if stated.keys() == memory.keys() else {}
