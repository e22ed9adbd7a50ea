"""Engines: compiled graphs, and the contexts they run in.

An engine is loaded once and shared by every clip and thread; a context belongs to one stream. It has a buffer
bound to each name of the contract, reads the inputs and writes the outputs there. Binding is for when a
buffer changes; running allocates nothing.
"""

from __future__ import annotations

from typing import Protocol

from ..errors import ConfigError
from .contract import Contract, TensorSpec
from .device import Buffer, Stream


class Context(Protocol):
    """A stream's hold on an engine; called from one thread at a time."""

    def bind(self, name: str, buffer: Buffer) -> None:
        """What is enqueued from now on reads or writes `buffer`, of the contract's dtype and shape."""

    def enqueue(self, stream: Stream) -> None:
        """Compute the bound outputs from the bound inputs, on the stream."""


class Engine(Protocol):
    """A compiled graph, loaded."""

    contract: Contract
    activation_bytes: int  # device memory it takes while it runs, from whoever makes a context
    runs: int  # times any of its contexts ran

    def context(self, workspace: Buffer | None) -> Context:
        """A new context with nothing bound. `workspace` is at least `activation_bytes` of the device,
        used by no other context at the same time; None where that is 0."""


def check_binding(spec: TensorSpec, buffer: Buffer) -> None:
    """Refuse a buffer whose bytes would be taken for something else."""
    if buffer.dtype != spec.dtype or buffer.shape != spec.shape:
        raise ConfigError(
            f"{spec.name}: expected {spec.dtype} {spec.shape}, found {buffer.dtype} {buffer.shape}"
        )
