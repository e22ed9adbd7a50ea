"""Backends by name: the device that a backend's engines run on, and how it loads them."""

from __future__ import annotations

from collections.abc import Callable

from .bundle import Bundle
from .device import Device
from .engine import Engine
from .precision import Backend


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
