"""Opens devices and loads engines by the name of the backend."""

from __future__ import annotations

from collections.abc import Callable

from .bundle import SealedBundle
from .device import Device
from .engine import Engine
from .precision import Backend


def open_device(backend: Backend, *, timing: bool = False) -> Device:
    """Open the device that a backend's engines run on. With `timing`, its events record times.

    Raises DeviceError if there is no such device.
    """
    return DEVICES[backend](timing)


def load_engine(bundle: SealedBundle, graph: str, device: Device) -> Engine:
    """Compile or load one graph of a bundle.

    The bundle is verified before and after it, so that what is loaded is what the bundle's digest stands for.
    Raises DeviceError if the backend is not installed or fails, BundleMismatch if the plan was built for
    another version or device, BundleError if it cannot be read, BundleCorrupt if a file was replaced or
    changed.
    """
    bundle.verify()
    engine = LOADERS[bundle.manifest.backend](bundle, graph, device)
    bundle.verify()
    return engine


def _cpu(_timing: bool) -> Device:
    from .cpu.device import CPUDevice

    return CPUDevice()


def _cuda(timing: bool) -> Device:
    from .cuda.device import CUDADevice

    return CUDADevice(timing=timing)


def _openvino(bundle: SealedBundle, graph: str, device: Device) -> Engine:
    from .cpu.openvino import load_graph

    engine = load_graph(bundle, graph)
    device.trim()  # compiling takes more memory than its result
    return engine


def _tensorrt(bundle: SealedBundle, graph: str, device: Device) -> Engine:
    from .cuda.tensorrt import load_plan

    return load_plan(bundle, graph, device)


DEVICES: dict[Backend, Callable[[bool], Device]] = {"openvino": _cpu, "tensorrt": _cuda}
LOADERS: dict[Backend, Callable[[SealedBundle, str, Device], Engine]] = {
    "openvino": _openvino,
    "tensorrt": _tensorrt,
}
