"""Runs an engine repeatedly, from and to the host, and times each part of a run."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter

from ...engines.device import Device
from ...engines.engine import Engine
from ...engines.runner import Runner

PARTS = ("enqueue", "host_to_device", "compute", "device_to_host", "latency")
WARM_UP = 3


class TimedEngine:
    """An engine with buffers of its own, on a stream of a device opened with timing."""

    def __init__(self, engine: Engine, device: Device):
        self.contract, self.runner = engine.contract, Runner(engine, device, "bench")
        self.fill, self.outputs = self.runner.fill, self.runner.outputs
        self.warm = False

    @property
    def transferred_bytes(self) -> int:
        """Bytes of inputs and outputs that one run reads and writes."""
        return sum(buffer.num_bytes for buffer in self.runner.buffers.values())

    def once(self) -> dict[str, float]:
        """Copy in, run and copy out; returns the seconds of each of PARTS. The first call warms up first."""
        if not self.warm:
            self.warm = True
            for _ in range(WARM_UP):  # CUDA graphs are captured at the second run
                self.once()
        runner, stream = self.runner, self.runner.stream
        marks = [stream.record()]
        runner.copy_in()
        marks.append(stream.record())
        began = perf_counter()
        runner.context.enqueue(stream)
        enqueue = perf_counter() - began
        marks.append(stream.record())
        runner.copy_out()
        marks.append(stream.record())
        marks[-1].synchronize()  # time_s needs a finished event
        times = [mark.time_s for mark in marks]
        copied_in, computed, copied_out = (after - before for before, after in pairwise(times))
        spans = (enqueue, copied_in, computed, copied_out, times[-1] - times[0])
        return dict(zip(PARTS, spans, strict=True))
