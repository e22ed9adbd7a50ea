"""An engine run on arrays of the host, one run after another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .device import Array, Buffer, Device
from .engine import Engine


class Runner:
    """An engine with a stream, a context and buffers of its own.

    Close the device when the runner is no longer needed. Called from one thread at a time.
    """

    def __init__(self, engine: Engine, device: Device, name: str):
        self.contract = contract = engine.contract
        self.stream = device.stream(name)
        size = engine.activation_bytes
        self.context = engine.context(device.buffer("uint8", (size,)) if size else None)
        specs = (*contract.inputs, *contract.outputs)
        self.host: dict[str, Buffer] = {s.name: device.host_buffer(s.dtype, s.shape) for s in specs}
        self.buffers: dict[str, Buffer] = {s.name: device.buffer(s.dtype, s.shape) for s in specs}
        for name, buffer in self.buffers.items():
            self.context.bind(name, buffer)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the engine on inputs by name; returns copies of its outputs by name. Raises DeviceError."""
        self.fill(inputs)
        self.copy_in()
        self.context.enqueue(self.stream)
        self.copy_out()
        self.stream.record().synchronize()
        return self.outputs()

    def fill(self, inputs: Mapping[str, Array]) -> None:
        """Set inputs by name, on the host."""
        for name, value in inputs.items():
            self.host[name].array[...] = value  # type: ignore[index]

    def copy_in(self) -> None:
        """Issue the copy of all inputs to the device."""
        self.stream.copy(*((self.buffers[spec.name], self.host[spec.name]) for spec in self.contract.inputs))

    def copy_out(self) -> None:
        """Issue the copy of all outputs to the host."""
        self.stream.copy(*((self.host[spec.name], self.buffers[spec.name]) for spec in self.contract.outputs))

    def outputs(self) -> dict[str, Array]:
        """Return copies of the outputs on the host, of a run that has finished."""
        return {spec.name: np.array(self.host[spec.name].array) for spec in self.contract.outputs}
