"""TensorRT plans from ONNX graphs, through either of its two packages.

`tensorrt` builds for the GPU at hand. `tensorrt_rtx` has the same API and builds ahead of time for named
compute capabilities, which takes no GPU. Networks are strongly typed: the graph's own types are the
precision.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

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
    """Compile one ONNX file into a plan file, in a process of its own: builders crash and run out of memory.

    Raises BuildError with the end of TensorRT's log.
    """
    provider()
    command = [sys.executable, "-m", __name__, os.fspath(graph), os.fspath(plan)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        log = " | ".join(" ".join(line.split()) for line in done.stderr.splitlines()[-LOG_LINES:])
        raise BuildError(f"{graph.name}: TensorRT ended with {how}: {log or 'it gave no reason'}")


def compile_plan(graph: Path, plan: Path) -> None:
    """What the other process does; TensorRT logs to its standard error."""
    trt = provider()
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(os.fspath(graph)):
        sys.exit(1)
    config = builder.create_builder_config()
    if capabilities := compute_capabilities():
        config.num_compute_capabilities = len(capabilities)
        for i, name in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), i)
    built = builder.build_serialized_network(network, config)
    if built is None:
        sys.exit(1)
    plan.write_bytes(memoryview(built))


def load_plan(bundle: Bundle, graph: str) -> Engine:
    """Refuse: this version builds plans and does not run them."""
    raise DeviceError(
        f"{bundle.path}, {graph}: this version builds TensorRT engines and does not run them yet; "
        "to render now, build with --backend openvino"
    )


if __name__ == "__main__":
    compile_plan(Path(sys.argv[1]), Path(sys.argv[2]))
