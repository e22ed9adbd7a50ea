"""Runs an engine repeatedly, from and to the host, and times each part of a run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from time import perf_counter

import numpy as np

from ...engines.device import Array, Buffer, Device
from ...engines.engine import Engine

PARTS = ("enqueue", "host_to_device", "compute", "device_to_host", "latency")
WARM_UP = 3


class TimedEngine:
    """An execution context with its own buffers, on a stream of a device opened with timing."""

    def __init__(self, engine: Engine, device: Device):
        self.contract, self.stream = engine.contract, device.stream("bench")
        size = engine.activation_bytes
        self.context = engine.context(device.buffer("uint8", (size,)) if size else None)
        specs = (*self.contract.inputs, *self.contract.outputs)
        self.host: dict[str, Buffer] = {s.name: device.host_buffer(s.dtype, s.shape) for s in specs}
        self.device: dict[str, Buffer] = {s.name: device.buffer(s.dtype, s.shape) for s in specs}
        for name, buffer in self.device.items():
            self.context.bind(name, buffer)
        self.warm = False

    @property
    def transferred_bytes(self) -> int:
        """Bytes of inputs and outputs that one run reads and writes."""
        return sum(buffer.num_bytes for buffer in self.device.values())

    def fill(self, inputs: Mapping[str, Array]) -> None:
        for name, content in inputs.items():
            array = self.host[name].array
            assert array is not None
            array[...] = content

    def outputs(self) -> dict[str, Array]:
        """The outputs of the last run."""
        return {spec.name: np.array(self.host[spec.name].array) for spec in self.contract.outputs}

    def once(self) -> dict[str, float]:
        """Copy in, run and copy out; returns the seconds of each of PARTS. The first call warms up first."""
        if not self.warm:
            self.warm = True
            for _ in range(WARM_UP):  # CUDA graphs are captured at the second run
                self.once()
        stream, inputs, outputs = self.stream, self.contract.inputs, self.contract.outputs
        marks = [stream.record()]
        stream.copy(*((self.device[spec.name], self.host[spec.name]) for spec in inputs))
        marks.append(stream.record())
        began = perf_counter()
        self.context.enqueue(stream)
        enqueue = perf_counter() - began
        marks.append(stream.record())
        stream.copy(*((self.host[spec.name], self.device[spec.name]) for spec in outputs))
        marks.append(stream.record())
        marks[-1].synchronize()  # time_s needs a finished event
        times = [mark.time_s for mark in marks]
        copied_in, computed, copied_out = (after - before for before, after in pairwise(times))
        spans = (enqueue, copied_in, computed, copied_out, times[-1] - times[0])
        return dict(zip(PARTS, spans, strict=True))
