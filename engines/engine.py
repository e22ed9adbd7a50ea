"""Engines: compiled graphs, and the execution contexts they run in.

An engine is loaded once and shared by all clips and threads; an execution context belongs to one stream. A
buffer is bound to each name of the contract; every run reads the inputs and writes the outputs there. Bind
again only when a buffer changes. A run allocates nothing.
"""

from __future__ import annotations

from typing import Protocol

from ..errors import ConfigError
from .contract import Contract, TensorSpec
from .device import Buffer, Stream


class Context(Protocol):
    """An execution context of an engine, for one stream. Called from one thread at a time."""

    def bind(self, name: str, buffer: Buffer) -> None:
        """Use `buffer` for this input or output in later runs.

        Raises ConfigError unless it has the dtype and shape of the contract.
        """

    def enqueue(self, stream: Stream) -> None:
        """Enqueue one run on the stream: it computes the bound outputs from the bound inputs."""


class Engine(Protocol):
    """A loaded, compiled graph."""

    contract: Contract
    activation_bytes: int  # device memory for activations: the size of a context's workspace
    runs: int  # number of runs, over all its contexts

    def context(self, workspace: Buffer | None) -> Context:
        """A new execution context with nothing bound. `workspace` is a device buffer of at least
        `activation_bytes` that no other context uses at the same time, or None if that is 0."""


def check_binding(spec: TensorSpec, buffer: Buffer) -> None:
    """Raise ConfigError unless the buffer has the dtype and shape of `spec`."""
    if buffer.dtype != spec.dtype or buffer.shape != spec.shape:
        raise ConfigError(
            f"{spec.name}: expected {spec.dtype} {spec.shape}, found {buffer.dtype} {buffer.shape}"
        )
