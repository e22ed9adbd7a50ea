"""From a checkpoint to a bundle: weights, graphs, engines, manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import torch

from ..engines.bundle import Manifest, new_bundle, seal
from ..engines.contract import Memory, ShapeBucket, contracts
from ..engines.cpu import openvino
from ..engines.cuda import tensorrt
from ..engines.cuda.plan import PlanOptions, build_plan, compute_capabilities, plan_key
from ..engines.cuda.plan_cache import PlanCache
from ..engines.precision import DEFAULT_PRECISION, PRECISIONS, Backend, Precision
from ..errors import ConfigError
from .checkpoints.checkpoint import load_checkpoint
from .onnx_graphs import export_graphs


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
    plans: PlanOptions | None = None,
    progress: Callable[[str], None] = lambda _what: None,
) -> None:
    """Export a checkpoint directory for one size and window, compile it, and write a bundle.

    width and height are pixels, window is frames. `precision` is the backend's first one unless given.
    `base` is a checkpoint directory that has what the first one lacks, where few-step weights are a denoising
    UNet alone. `inference_config` is a public inference.yaml; sections that it lacks are taken from the
    checkpoint's own, its base's, or else the public v2 settings. `plans` is for the backend that has plans,
    tensorrt. `progress` is told what begins ("export denoising_unet") and, again and again while a plan is
    compiled, how far that is ("compile denoising_unet: timing tactics 1/3"); what it raises stops the build.
    An existing bundle of that name is replaced at the end.

    Raises InputMissing, ConfigError, CheckpointError, BuildError, DeviceError or OutputError; the name then
    holds what it held before.
    """
    if backend not in DEFAULT_PRECISION:
        raise ConfigError(f"backend: expected one of {', '.join(DEFAULT_PRECISION)}, found {backend}")
    precision = precision or DEFAULT_PRECISION[backend]
    possible = [name for name, numerics in PRECISIONS.items() if backend in numerics.backends]
    if precision not in possible:
        raise ConfigError(
            f"precision: expected one of {', '.join(possible)} with backend {backend}, found {precision}"
        )
    if plans and backend != "tensorrt":
        raise ConfigError(
            "compute capability, optimization level and workspace: expected with backend tensorrt, "
            f"found with {backend}"
        )
    plans = plans or PlanOptions()
    backend_version = {"openvino": openvino, "tensorrt": tensorrt}[backend].version()
    capabilities = compute_capabilities(plans) if backend == "tensorrt" else ()
    bucket = ShapeBucket(width=width, height=height, window=window)
    progress("load checkpoint")
    dtype = PRECISIONS[precision].graph_dtype
    loaded = load_checkpoint(checkpoint, inference_config, getattr(torch, dtype), base=base)
    model, weights = loaded.config, dict(loaded.weights)
    graphs = contracts(model, bucket, dtype)
    with new_bundle(bundle) as folder:
        (folder / "graphs").mkdir()
        export_graphs(loaded, bucket, folder / "graphs", lambda graph: progress(f"export {graph}"))
        del loaded  # the compiler needs the memory
        memory: dict[str, Memory | None] = {}
        if backend == "tensorrt":
            (folder / "engines").mkdir()
            for graph in graphs:
                memory[graph] = compile_graph(folder, graph, plans, progress)
        known = {graph: needed for graph, needed in memory.items() if needed}
        progress("seal")
        manifest = Manifest(
            model=model,
            bucket=bucket,
            backend=backend,
            backend_version=backend_version,
            compute_capabilities=capabilities,
            memory=known if known.keys() == memory.keys() else {},
            precision=precision,
            weights=weights,
            graphs=graphs,
        )
        seal(folder, manifest)


def compile_graph(
    folder: Path, graph: str, options: PlanOptions, progress: Callable[[str], None]
) -> Memory | None:
    """Put the plan of one graph into a bundle's folder: compiled, unless the very same one was before."""
    source, plan = folder / "graphs" / f"{graph}.onnx", folder / "engines" / f"{graph}.plan"
    what = f"compile {graph}"
    progress(what)

    def tell(detail: str) -> None:
        progress(f"{what}: {detail}" if detail else what)

    key = plan_key(graph_digest(source), options)
    return PlanCache().fill(key, plan, partial(build_plan, source, plan, options, tell))


def graph_digest(path: Path) -> str:
    """SHA-256 of an ONNX file and the weights it refers to, wherever in their file these lie."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            with (path.parent / place["location"]).open("rb") as file:
                file.seek(int(place["offset"]))
                content = file.read(int(place["length"]))
            del tensor.external_data[:]
            tensor.raw_data = hashlib.sha256(content).digest()
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
