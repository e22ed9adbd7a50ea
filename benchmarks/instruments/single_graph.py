"""An engine for one graph that is in no bundle, with a bundle's backend and precision."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...engines.backends import load_engine
from ...engines.bundle import Bundle
from ...engines.contract import Contract, TensorSpec
from ...engines.cpu.openvino import OpenVINOEngine, compile_onnx
from ...engines.cuda.plan import PlanOptions, build_plan
from ...engines.device import Array, Device
from ...engines.engine import Engine


def single_engine(
    bundle: Bundle, name: str, contract: Contract, write: Callable[[Path], None], device: Device
) -> Engine:
    """Load the graph that `write` writes: an ONNX file at the path it is given, its weights beside it."""
    with tempfile.TemporaryDirectory(prefix="animate-rt-graph-") as folder:
        path, manifest = Path(folder), bundle.manifest
        for kind in ("graphs", "engines"):
            (path / kind).mkdir()
        alone = Bundle(path, replace(manifest, graphs={name: contract}, memory={}, files={}), digest="")
        write(alone.graph(name))
        if manifest.backend == "openvino":
            return OpenVINOEngine(compile_onnx(alone.graph(name), manifest.precision), contract)
        options = PlanOptions(compute_capabilities=manifest.compute_capabilities)
        build_plan(alone.graph(name), alone.engine(name), options)
        return load_engine(alone, name, device)


def example(spec: TensorSpec, generator: np.random.Generator, window: int) -> Array:
    """A plausible input of the right shape and dtype."""
    scalars = {"timestep": 500.0, "guidance_scale": 3.5, "num_frames": window}
    if spec.name in scalars:
        return np.full(spec.shape, scalars[spec.name], np.dtype(spec.dtype))
    if spec.dtype == "uint8":
        return generator.integers(0, 256, spec.shape, np.uint8)
    return generator.standard_normal(spec.shape, np.float32).astype(np.dtype(spec.dtype))
