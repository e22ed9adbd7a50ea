"""Engines: compiled graphs, and the contexts they run in.

An engine is loaded once and shared by every clip and thread; a context belongs to one stream. It has a buffer
bound to each name of the contract, reads the inputs and writes the outputs there. Binding is for when a
buffer changes; running allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..errors import ConfigError
from .bundle import Backend, Bundle
from .contract import Contract, TensorSpec
from .device import Buffer, Device, Stream


class Context(Protocol):
    """A stream's hold on an engine; called from one thread at a time."""

    def bind(self, name: str, buffer: Buffer) -> None:
        """What is enqueued from now on reads or writes `buffer`, of the contract's dtype and shape."""

    def enqueue(self, stream: Stream) -> None:
        """Compute the bound outputs from the bound inputs, on the stream."""


class Engine(Protocol):
    """A compiled graph, loaded."""

    contract: Contract
    activation_bytes: int  # device memory it takes while it runs, from whoever makes a context
    runs: int  # times any of its contexts ran

    def context(self, workspace: Buffer | None) -> Context:
        """A new context with nothing bound. `workspace` is at least `activation_bytes` of the device,
        used by no other context at the same time; None where that is 0."""


def open_device(backend: Backend, *, timing: bool = False) -> Device:
    """The device a backend's engines run on; with `timing` its events know when they happened.

    Raises DeviceError where there is none.
    """
    return DEVICES[backend](timing)


def load_engine(bundle: Bundle, graph: str, device: Device) -> Engine:
    """Compile or load one graph of a bundle.

    Raises DeviceError where its backend is missing or fails, BundleMismatch where it was built for another.
    """
    return LOADERS[bundle.manifest.backend](bundle, graph, device)


def check_binding(spec: TensorSpec, buffer: Buffer) -> None:
    """Refuse a buffer whose bytes would be taken for something else."""
    if buffer.dtype != spec.dtype or buffer.shape != spec.shape:
        raise ConfigError(
            f"{spec.name}: expected {spec.dtype} {spec.shape}, found {buffer.dtype} {buffer.shape}"
        )


def _cpu(_timing: bool) -> Device:
    from .cpu.device import CPUDevice

    return CPUDevice()


def _cuda(timing: bool) -> Device:
    from .cuda.device import CUDADevice

    return CUDADevice(timing=timing)


def _openvino(bundle: Bundle, graph: str, _device: Device) -> Engine:
    from .cpu.openvino import OpenVINOEngine

    return OpenVINOEngine(bundle, graph)


def _tensorrt(bundle: Bundle, graph: str, device: Device) -> Engine:
    from .cuda.tensorrt import load_plan

    return load_plan(bundle, graph, device)


DEVICES: dict[Backend, Callable[[bool], Device]] = {"openvino": _cpu, "tensorrt": _cuda}
LOADERS: dict[Backend, Callable[[Bundle, str, Device], Engine]] = {
    "openvino": _openvino,
    "tensorrt": _tensorrt,
}
