"""Graphs on the CPU through OpenVINO, which reads the bundle's ONNX files and compiles them when loaded."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection
from functools import partial
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import Any

from ...errors import DeviceError, OutOfMemory
from ..bundle import Bundle
from ..contract import TIME_EMBEDDING, TensorSpec
from ..device import Buffer, Stream
from ..engine import check_binding
from ..precision import Precision
from .device import CPUStream
from .passes.attention import attention_keys_first
from .passes.convolution import convolution_without_idle_strides
from .passes.group_norm import group_norm_by_channel
from .passes.upsampling import convolution_before_upsampling

CONVERTER = "openvino.tools.ovc"
# Whatever the rest is computed in: bfloat16 would round the timestep's angles, up to 999, to whole numbers.
EXACT: dict[str, Precision] = {TIME_EMBEDDING: "fp32"}
# What the CPU is given for what the graph says: the same results, sooner.
BEFORE_DOUBLING, BY_CHANNEL = "convolutions before doubling", "group normalisation by channel"
KEYS_FIRST = "keys first where they are few"
PASSES: dict[str, Callable[[Any], Any]] = {
    BEFORE_DOUBLING: convolution_before_upsampling,
    BY_CHANNEL: group_norm_by_channel,
    KEYS_FIRST: attention_keys_first,
}
IMPORTING = Lock()
INSTALL = "pip install 'animate-rt[cpu]'"


def version() -> str:
    try:
        return f"openvino {metadata.version('openvino')}"
    except metadata.PackageNotFoundError:
        raise DeviceError(f"backend openvino: expected the package openvino, found none; {INSTALL}") from None


def import_openvino() -> Any:
    """OpenVINO without its model converter, which we do not need and which reports each import over the
    network and writes to the user's home. The package does without it where it cannot be imported."""
    with IMPORTING:
        if "openvino" in sys.modules:
            return importlib.import_module("openvino")  # waits, should its import still be under way
        sys.modules[CONVERTER] = None  # type: ignore[assignment]
        try:
            return importlib.import_module("openvino")
        finally:
            del sys.modules[CONVERTER]


class OpenVINOEngine:
    """One compiled graph. Inputs and outputs are float32 even where it computes in bfloat16."""

    def __init__(self, bundle: Bundle, graph: str, passes: Collection[str] = tuple(PASSES)):
        version()
        ov = import_openvino()
        self.tensor = ov.Tensor
        self.contract = bundle.manifest.graphs[graph]
        self.activation_bytes = 0  # OpenVINO sees to them itself
        self.runs = 0
        try:
            precision = EXACT.get(graph, bundle.manifest.precision)
            self.compiled = compile_graph(bundle.graph(graph), precision, passes)
        except MemoryError as error:
            raise OutOfMemory(f"{graph}: no room to compile it; use a smaller size or window") from error
        except RuntimeError as error:
            raise DeviceError(
                f"{graph}: openvino cannot compile it: {' '.join(str(error).split())}"
            ) from error

    def context(self, _workspace: Buffer | None) -> OpenVINOContext:
        return OpenVINOContext(self)


class OpenVINOContext:
    """An infer request bound to the caller's buffers; nothing is copied on the way in or out."""

    def __init__(self, engine: OpenVINOEngine):
        self.engine = engine
        self.request = engine.compiled.create_infer_request()
        contract = engine.contract
        self.specs: dict[str, TensorSpec] = {
            spec.name: spec for spec in (*contract.inputs, *contract.outputs)
        }
        self.bound: dict[str, Buffer] = {}
        self.in_use: dict[str, Buffer] = {}  # by the request; the worker's, which is behind what is bound

    def bind(self, name: str, buffer: Buffer) -> None:
        if self.bound.get(name) is not buffer:
            check_binding(self.specs[name], buffer)
            self.bound[name] = buffer

    def enqueue(self, stream: Stream) -> None:
        assert isinstance(stream, CPUStream)
        missing = self.specs.keys() - self.bound.keys()
        assert not missing, f"not bound: {sorted(missing)}"
        stream.call(partial(self.run, dict(self.bound)))

    def run(self, bound: dict[str, Buffer]) -> None:
        """What the stream's worker does, unless something this needs has failed."""
        try:
            for name, buffer in bound.items():
                if self.in_use.get(name) is not buffer:
                    self.request.set_tensor(name, self.engine.tensor(buffer.array, shared_memory=True))
                    self.in_use[name] = buffer
            self.request.infer()
        except RuntimeError as error:
            raise DeviceError(f"openvino failed: {' '.join(str(error).split())}") from error
        self.engine.runs += 1


def compile_graph(path: Path, precision: Precision, passes: Collection[str] = tuple(PASSES)) -> Any:
    """An ONNX file as the CPU computes it, here and wherever its bits are compared with others'."""
    core = import_openvino().Core()
    return compile_model(core, core.read_model(path), precision, passes)


def compile_model(
    core: Any, model: Any, precision: Precision, passes: Collection[str] = tuple(PASSES)
) -> Any:
    for name in passes:
        model = PASSES[name](model)
    if precision == "bf16":  # of which a kernel is wrong
        model = convolution_without_idle_strides(model)
    return core.compile_model(model, "CPU", options(core, precision))


def options(core: Any, precision: Precision) -> dict[str, Any]:
    """Exactly the precision asked for: left to itself OpenVINO picks bfloat16 where the CPU has it."""
    ov = import_openvino()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise DeviceError(
            "expected a CPU that computes in bfloat16, found none; build the bundle with --precision fp32"
        )
    hint = ov.properties.hint
    return {
        hint.inference_precision: ov.Type.bf16 if precision == "bf16" else ov.Type.f32,
        hint.performance_mode: hint.PerformanceMode.LATENCY,
    }
