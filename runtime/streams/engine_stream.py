"""Engine streams: each is one stream of the device and the engines that run on it, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ...engines.contract import REFERENCE, DType
from ...engines.device import Array, Buffer, Device, Event
from ...engines.engine import Engine
from ...engines.library_calls import library_call
from .operations import StreamScheduler
from .pool import Pool

NOTHING: Mapping[str, Buffer] = {}


class EngineStream:
    """A stream, an execution context for each engine on it, and one workspace that they share."""

    def __init__(
        self, name: str, device: Device, scheduler: StreamScheduler, pool: Pool, activation_bytes: int
    ):
        self.scheduler, self.pool = scheduler, pool
        self.stream = device.stream(name)
        self.activation_bytes = activation_bytes  # expected maximum of its engines
        self.workspace: Buffer | None = None
        self.bound_engines: dict[str, BoundEngine] = {}

    def bound_engine(self, graph: str, engine: Engine) -> BoundEngine:
        """Return the engine bound to this stream, bound on first use. Called with the scheduler held."""
        if graph not in self.bound_engines:
            self._make_workspace(engine.activation_bytes)
            with library_call():
                self.bound_engines[graph] = self.pool.with_room(lambda: BoundEngine(graph, engine, self))
        return self.bound_engines[graph]

    @contextmanager
    def staged(self, dtype: DType, content: Array) -> Iterator[Buffer]:
        """Yield a host buffer with that content, for operations issued in the `with` block to copy from."""
        buffer = self.pool.take_host(dtype, content.shape)
        try:
            self.scheduler.host_writes(buffer, content)
            yield buffer
        finally:
            self.pool.give(buffer)

    def copy_in(self, target: Buffer, content: Array) -> None:
        """Fill a device buffer with content from the host."""
        with self.staged(target.dtype, content) as source:
            self._copy("copy in", target, source)

    def copy_out(self, source: Buffer) -> Array:
        """Return the content of a device buffer after all writes issued so far; waits for them."""
        target = self.pool.take_host(source.dtype, source.shape)
        try:
            self._copy("copy out", target, source)
            return self.scheduler.host_reads(target)
        finally:
            self.pool.give(target)

    def _copy(self, name: str, target: Buffer, source: Buffer) -> None:
        stream = self.stream
        with self.scheduler:
            self.scheduler.issue(
                name, stream, lambda: stream.copy((target, source)), reads=[source], writes=[target]
            )

    def _make_workspace(self, num_bytes: int) -> None:
        """Make the workspace large enough. Clips in progress go on with the same bound engines."""
        old = self.workspace
        if num_bytes <= (old.num_bytes if old else 0):
            return
        self.stream.record().synchronize()  # the old contexts may still be running
        new = self.pool.allocate("uint8", (max(num_bytes, self.activation_bytes),))
        try:
            contexts = [bound.engine.context(new) for bound in self.bound_engines.values()]
        except BaseException:
            self.pool.give(new)
            raise
        for bound, context in zip(self.bound_engines.values(), contexts, strict=True):
            bound.context = context
        self.workspace = new
        if old is not None:
            self.pool.give(old)


class BoundEngine:
    """An execution context on an EngineStream, with input and output buffers of its own.

    A run uses its own buffers, except where another one is passed as `bound`.
    """

    def __init__(self, graph: str, engine: Engine, engine_stream: EngineStream):
        self.graph, self.engine, self.contract = graph, engine, engine.contract
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
        """Return its own buffer of that name, allocated on first use. Called with the scheduler held."""
        if name not in self.io_buffers:
            spec = self.specs[name]
            # Engines of references may be unloaded, and then find the buffers that they gave back.
            new = self.pool.take if self.graph in REFERENCE else self.pool.allocate
            self.io_buffers[name] = new(spec.dtype, spec.shape)
        return self.io_buffers[name]

    def run(
        self,
        inputs: Mapping[str, Buffer] = NOTHING,
        outputs: Mapping[str, Buffer] = NOTHING,
        bound: Mapping[str, Buffer] = NOTHING,
        check: Callable[[], None] | None = None,
    ) -> Event:
        """Issue one operation: copy `inputs` in, run the engine, copy `outputs` out.

        Buffers in `bound` are used in place. The stream calls `check` first (`Stream.check`). Called with the
        scheduler held.
        """
        buffers = {name: bound[name] if name in bound else self[name] for name in self.specs}
        reads = [*inputs.values(), *(buffers[name] for name in self.inputs if name not in inputs)]
        written = (name for name in self.specs if name in inputs or name not in self.inputs)

        def work() -> None:
            if check:
                self.stream.check(check)
            for name, buffer in buffers.items():
                self.context.bind(name, buffer)
            if inputs:
                self.stream.copy(*((buffers[name], source) for name, source in inputs.items()))
            self.context.enqueue(self.stream)
            if outputs:
                self.stream.copy(*((target, buffers[name]) for name, target in outputs.items()))

        writes = [*outputs.values(), *(buffers[name] for name in written)]
        return self.scheduler.issue(self.graph, self.stream, work, reads=reads, writes=writes)
