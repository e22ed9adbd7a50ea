"""TensorRT plans from ONNX graphs, through either of its two packages.

`tensorrt` builds for the GPU at hand. `tensorrt_rtx` has the same API and builds ahead of time for named
compute capabilities, which takes no GPU. Networks are strongly typed: the graph's own types are the precision.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import BuildError, DeviceError
from .bundle import Bundle
from .engine import Engine

PROVIDERS = ("tensorrt", "tensorrt_rtx")
COMPUTE_CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")  # of a plan of tensorrt_rtx; one plan serves all
LOG_LINES = 5


def provider() -> ModuleType:
    """The installed package, `tensorrt` first."""
    for name in PROVIDERS:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise DeviceError(
        "backend tensorrt: expected the package tensorrt or tensorrt_rtx, found neither; "
        "pip install 'animate-rt[tensorrt]', or 'animate-rt[tensorrt-rtx]' to build without a GPU"
    )


def version() -> str:
    trt = provider()
    return f"{trt.__name__} {trt.__version__}"


def compute_capabilities() -> tuple[str, ...]:
    """What `build_plan` builds for; empty where that is the GPU at hand."""
    return COMPUTE_CAPABILITIES if provider().__name__ == "tensorrt_rtx" else ()


def build_plan(graph: Path, plan: Path) -> None:
    """Compile one ONNX file into a plan file. Raises BuildError with the end of TensorRT's log."""
    trt = provider()
    log = make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BuildError(f"{graph.name}: TensorRT cannot parse it: {last_line(errors)}")
    config = builder.create_builder_config()
    if capabilities := compute_capabilities():
        config.num_compute_capabilities = len(capabilities)
        for i, name in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), i)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise BuildError(f"{graph.name}: TensorRT cannot build it: {last_line(log.errors)}")
    plan.write_bytes(memoryview(built))


def load_plan(bundle: Bundle, graph: str) -> Engine:
    raise DeviceError(
        f"{bundle.path}: this version builds TensorRT engines and does not run them yet; "
        "to render now, build with --backend openvino"
    )


def make_log(trt: ModuleType) -> Any:
    """A logger that keeps errors for the exception and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Log()


def last_line(errors: list[str]) -> str:
    return " | ".join(" ".join(error.split()) for error in errors[-LOG_LINES:]) or "it gave no reason"
