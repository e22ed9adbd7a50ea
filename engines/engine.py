"""Engines: compiled graphs, and the contexts they run in.

An engine is loaded once and shared by every clip and thread; a context belongs to one clip. It has a buffer
bound to each name of the contract, reads the inputs and writes the outputs there. Binding is for when a
buffer changes; running allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .bundle import Backend, Bundle
from .contract import Contract, TensorSpec

Buffer = NDArray[Any]


class Context(Protocol):
    """One clip's hold on an engine; not safe to run from two threads at once."""

    def bind(self, name: str, buffer: Buffer) -> None:
        """Read or write `buffer` from now on: contiguous, of the contract's dtype and shape."""

    def run(self) -> None:
        """Compute the bound outputs from the bound inputs."""


class Engine(Protocol):
    """A compiled graph."""

    contract: Contract
    runs: int  # times any of its contexts ran

    def context(self) -> Context:
        """A new context, with no buffers bound."""


def load_engine(bundle: Bundle, graph: str) -> Engine:
    """Compile or load one graph of a bundle. Raises DeviceError where its backend is missing or fails."""
    return LOADERS[bundle.manifest.backend](bundle, graph)


def call(context: Context, contract: Contract, **inputs: Buffer) -> dict[str, Buffer]:
    """Run a context once on these inputs, into new buffers; for graphs that run once in a while."""
    for name, buffer in inputs.items():
        context.bind(name, buffer)
    outputs = {spec.name: new_buffer(spec) for spec in contract.outputs}
    for name, buffer in outputs.items():
        context.bind(name, buffer)
    context.run()
    return outputs


def new_buffer(spec: TensorSpec) -> Buffer:
    return np.zeros(spec.shape, np.dtype(spec.dtype))


def check_binding(spec: TensorSpec, buffer: Buffer) -> None:
    """Refuse a buffer whose bytes would be taken for something else."""
    if buffer.dtype != spec.dtype or buffer.shape != spec.shape or not buffer.flags.c_contiguous:
        raise ConfigError(
            f"{spec.name}: expected a contiguous {spec.dtype} {spec.shape}, "
            f"found {buffer.dtype} {buffer.shape}"
        )


def _openvino(bundle: Bundle, graph: str) -> Engine:
    from .openvino import OpenVINOEngine

    return OpenVINOEngine(bundle, graph)


def _tensorrt(bundle: Bundle, graph: str) -> Engine:
    from .tensorrt import load_plan

    return load_plan(bundle, graph)


LOADERS: dict[Backend, Callable[[Bundle, str], Engine]] = {"openvino": _openvino, "tensorrt": _tensorrt}
