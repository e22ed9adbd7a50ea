"""Engines of simple arithmetic that cost almost nothing: outputs depend on every input, and mix frames.

They are for tests of order and timing, which need no networks.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from animate_rt.engines.bundle import Bundle
from animate_rt.engines.contract import Contract
from animate_rt.engines.cpu.device import CPUStream
from animate_rt.engines.device import Array, Buffer, Device, Stream

from .hazards import NotingStream


class ArithmeticEngine:
    """An engine that replaces `load_engine` in tests."""

    def __init__(self, bundle: Bundle, graph: str, _device: Device):
        self.contract: Contract = bundle.manifest.graphs[graph]
        self.activation_bytes = 0
        self.runs = 0

    def context(self, _workspace: Buffer | None) -> ArithmeticContext:
        return ArithmeticContext(self)


class ArithmeticContext:
    def __init__(self, engine: ArithmeticEngine):
        self.engine = engine
        self.bound: dict[str, Buffer] = {}

    def bind(self, name: str, buffer: Buffer) -> None:
        self.bound[name] = buffer

    def enqueue(self, stream: Stream) -> None:
        assert isinstance(stream, CPUStream)
        if isinstance(stream, NotingStream):
            contract = self.engine.contract
            stream.note(
                "run",
                reads=[self.bound[spec.name] for spec in contract.inputs],
                writes=[self.bound[spec.name] for spec in contract.outputs],
            )
        stream.call(partial(self.run, dict(self.bound)))

    def run(self, bound: dict[str, Buffer]) -> None:
        contract = self.engine.contract
        inputs = [array(bound[spec.name]).astype(np.float32) for spec in contract.inputs]
        for i, spec in enumerate(contract.outputs):
            total = np.full(spec.shape, 0.1 * i, np.float32)
            for weight, given in enumerate(inputs, start=1):
                total += np.resize(given, spec.shape) / np.float32(weight) + given.mean() / 7
            total = np.tanh(total / 8 + np.roll(total, 1, axis=0) / 16)
            if spec.dtype == "uint8":
                total = (total + 1) * 127
            array(bound[spec.name])[...] = total.astype(spec.dtype)
        self.engine.runs += 1


class FreeEngine(ArithmeticEngine):
    """Computes nothing, so that only the time of the runtime remains."""

    def context(self, _workspace: Buffer | None) -> ArithmeticContext:
        return FreeContext(self)


class FreeContext(ArithmeticContext):
    def bind(self, name: str, buffer: Buffer) -> None:
        if self.bound.get(name) is not buffer:
            array(buffer).fill(0)  # any finite values
            self.bound[name] = buffer

    def enqueue(self, _stream: Stream) -> None:
        pass


def array(buffer: Buffer) -> Array:
    assert buffer.array is not None
    return buffer.array
