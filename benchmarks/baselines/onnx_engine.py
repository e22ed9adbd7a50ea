"""A bundle's graphs as ONNX Runtime engines on our CPU streams: an independent oracle."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ...engines.bundle import Bundle
from ...engines.contract import Contract
from ...engines.cpu.device import CPUStream
from ...engines.device import Array, Buffer, Device, Stream
from ...engines.engine import check_binding


def load_onnx_engine(bundle: Bundle, graph: str, _device: Device) -> OnnxEngine:
    """Loads an engine; pass this function to `Animator` as `load`."""
    return OnnxEngine(bundle.manifest.graphs[graph], bundle.graph(graph))


class OnnxEngine:
    def __init__(self, contract: Contract, path: Path):
        self.contract, self.session = contract, open_session(path)
        self.activation_bytes = 0  # ONNX Runtime allocates its own
        self.runs = 0

    def context(self, _workspace: Buffer | None) -> OnnxContext:
        return OnnxContext(self)


class OnnxContext:
    def __init__(self, engine: OnnxEngine):
        self.engine = engine
        self.specs = {spec.name: spec for spec in (*engine.contract.inputs, *engine.contract.outputs)}
        self.bound: dict[str, Buffer] = {}

    def bind(self, name: str, buffer: Buffer) -> None:
        check_binding(self.specs[name], buffer)
        self.bound[name] = buffer

    def enqueue(self, stream: Stream) -> None:
        assert isinstance(stream, CPUStream)
        stream.call(partial(self.run, dict(self.bound)))

    def run(self, bound: dict[str, Buffer]) -> None:
        names = [spec.name for spec in self.engine.contract.outputs]
        feed = {spec.name: bound[spec.name].array for spec in self.engine.contract.inputs}
        found: list[Array] = self.engine.session.run(names, feed)
        for name, array in zip(names, found, strict=True):
            target = bound[name].array
            assert target is not None
            target[...] = array
        self.engine.runs += 1


def open_session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: it warns about constants it folds
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
