"""Lanes: each is one stream with the engines that run on it, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ...engines.contract import DType
from ...engines.device import Array, Buffer, Device, Event
from ...engines.engine import Engine
from .operations import StreamScheduler
from .pool import Pool

NOTHING: Mapping[str, Buffer] = {}


class EngineStream:
    """A stream, a context for each engine on it, and one block of memory for whichever runs."""

    def __init__(
        self, name: str, device: Device, scheduler: StreamScheduler, pool: Pool, activation_bytes: int
    ):
        self.scheduler, self.pool = scheduler, pool
        self.stream = device.stream(name)
        self.activation_bytes = activation_bytes  # bytes of activations that are expected
        self.workspace: Buffer | None = None
        self.bound_engines: dict[str, BoundEngine] = {}

    def bound_engine(self, graph: str, engine: Engine) -> BoundEngine:
        """Where that engine runs on this lane; with the issuer held."""
        if graph not in self.bound_engines:
            self._make_workspace(engine.activation_bytes)
            self.bound_engines[graph] = BoundEngine(graph, engine, self)
        return self.bound_engines[graph]

    @contextmanager
    def staged(self, dtype: DType, content: Array) -> Iterator[Buffer]:
        """A host buffer with that content, for operations that are issued in the `with` to copy from."""
        buffer = self.pool.take_host(dtype, content.shape)
        try:
            self.scheduler.host_writes(buffer, content)
            yield buffer
        finally:
            self.pool.give(buffer)

    def copy_in(self, target: Buffer, content: Array) -> None:
        """Fill a device buffer from the host."""
        with self.staged(target.dtype, content) as source, self.scheduler:
            self.scheduler.issue(
                "copy in",
                self.stream,
                lambda: self.stream.copy((target, source)),
                reads=[source],
                writes=[target],
            )

    def copy_out(self, source: Buffer) -> Array:
        """What a device buffer holds, once everything issued so far has written it."""
        target = self.pool.take_host(source.dtype, source.shape)
        try:
            with self.scheduler:
                self.scheduler.issue(
                    "copy out",
                    self.stream,
                    lambda: self.stream.copy((target, source)),
                    reads=[source],
                    writes=[target],
                )
            return self.scheduler.host_reads(target)
        finally:
            self.pool.give(target)

    def _make_workspace(self, num_bytes: int) -> None:
        if num_bytes > (self.workspace.num_bytes if self.workspace else 0):
            self.stream.record().synchronize()  # contexts are let go that may still be running
            self.bound_engines.clear()
            self.workspace = self.pool.allocate("uint8", (max(num_bytes, self.activation_bytes),))


class BoundEngine:
    """An engine on a lane. Its inputs and outputs stay where they are from run to run, apart from those that
    a run names as bound."""

    def __init__(self, graph: str, engine: Engine, engine_stream: EngineStream):
        self.graph, self.contract = graph, engine.contract
        self.scheduler, self.pool, self.stream = (
            engine_stream.scheduler,
            engine_stream.pool,
            engine_stream.stream,
        )
        self.context = engine.context(engine_stream.workspace)
        self.inputs = [spec.name for spec in engine.contract.inputs]
        self.specs = {spec.name: spec for spec in (*engine.contract.inputs, *engine.contract.outputs)}
        self.io_buffers: dict[str, Buffer] = {}

    def __getitem__(self, name: str) -> Buffer:
        """The station's own buffer of that name; with the issuer held, as it may have to be made."""
        if name not in self.io_buffers:
            spec = self.specs[name]
            self.io_buffers[name] = self.pool.allocate(spec.dtype, spec.shape)
        return self.io_buffers[name]

    def run(
        self,
        inputs: Mapping[str, Buffer] = NOTHING,
        outputs: Mapping[str, Buffer] = NOTHING,
        bound: Mapping[str, Buffer] = NOTHING,
    ) -> Event:
        """One operation: copy the inputs in, run, copy the outputs out. What is `bound` is used in place.

        With the issuer held.
        """
        at = {name: bound[name] if name in bound else self[name] for name in self.specs}
        reads = [*inputs.values(), *(at[name] for name in self.inputs if name not in inputs)]
        written = (name for name in self.specs if name in inputs or name not in self.inputs)

        def work() -> None:
            for name, buffer in at.items():
                self.context.bind(name, buffer)
            if inputs:
                self.stream.copy(*((at[name], source) for name, source in inputs.items()))
            self.context.enqueue(self.stream)
            if outputs:
                self.stream.copy(*((target, at[name]) for name, target in outputs.items()))

        writes = [*outputs.values(), *(at[name] for name in written)]
        return self.scheduler.issue(self.graph, self.stream, work, reads=reads, writes=writes)
