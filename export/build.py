"""From a checkpoint to a bundle: weights, graphs, engines, manifest."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from ..engines import openvino, tensorrt
from ..engines.bundle import PRECISIONS, Backend, Manifest, Precision, graph_dtype, new_bundle, seal
from ..engines.contract import ShapeBucket, contracts
from ..errors import ConfigError
from .checkpoint import load_checkpoint
from .onnx_graphs import export_graphs


def build_bundle(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    width: int,
    height: int,
    window: int,
    backend: Backend = "openvino",
    precision: Precision | None = None,
    inference_config: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda _what: None,
) -> None:
    """Export a checkpoint directory for one size and window, compile it, and write a bundle.

    width and height are pixels, window is frames. `precision` is the backend's first one unless given.
    `inference_config` is a public inference.yaml; without one the public v2 settings hold. `progress` is told
    what begins ("export denoising_unet"). An existing bundle of that name is replaced at the end.

    Raises InputMissing, ConfigError, CheckpointError, BuildError, DeviceError or OutputError; the name then
    holds what it held before.
    """
    if backend not in PRECISIONS:
        raise ConfigError(f"backend: expected one of {', '.join(PRECISIONS)}, found {backend}")
    precision = precision or PRECISIONS[backend][0]
    if precision not in PRECISIONS[backend]:
        raise ConfigError(
            f"precision: expected one of {', '.join(PRECISIONS[backend])} with backend {backend}, "
            f"found {precision}"
        )
    backend_version = {"openvino": openvino, "tensorrt": tensorrt}[backend].version()
    bucket = ShapeBucket(width=width, height=height, window=window)
    progress("load checkpoint")
    dtype = graph_dtype(precision)
    loaded = load_checkpoint(checkpoint, inference_config, getattr(torch, dtype))
    graphs = contracts(loaded.config, bucket, dtype)
    with new_bundle(bundle) as folder:
        (folder / "graphs").mkdir()
        export_graphs(loaded, bucket, folder / "graphs", lambda graph: progress(f"export {graph}"))
        if backend == "tensorrt":
            (folder / "engines").mkdir()
            for graph in graphs:
                progress(f"compile {graph}")
                tensorrt.build_plan(folder / "graphs" / f"{graph}.onnx", folder / "engines" / f"{graph}.plan")
        progress("seal")
        manifest = Manifest(
            model=loaded.config,
            bucket=bucket,
            backend=backend,
            backend_version=backend_version,
            compute_capabilities=tensorrt.compute_capabilities() if backend == "tensorrt" else (),
            precision=precision,
            weights=dict(loaded.weights),
            graphs=graphs,
        )
        seal(folder, manifest)
